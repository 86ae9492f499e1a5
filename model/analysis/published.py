"""What the paper reports: the rows of its tables 1, 2 and 5, to stand beside a measurement of one's own.

Table 5 holds all of table 1 (its rows of one step; table 1 writes OSDiff for OSEDiff, and names DIV2K-Val DIV2K).
"""

from dataclasses import dataclass
from typing import Literal

Dataset = Literal["realsr", "drealsr", "div2k"]
TITLES: dict[Dataset, str] = {"realsr": "RealSR", "drealsr": "DRealSR", "div2k": "DIV2K-Val"}

METRICS = ("psnr", "ssim", "lpips", "dists", "fid", "niqe", "musiq", "maniqa", "clipiqa")
"""The order of the columns in tables 1 and 5."""

SECONDS = {
    "OSEDiff": 0.0947,
    "SinSR": 0.0688,
    "PiSA-SR": 0.0664,
    "TSD-SR": 0.0849,
    "OMGSR-S": 0.0648,
    "OMGSR-F": 0.2066,
    "OMGSR-F (1k)": 0.7947,
}
"""Table 2: seconds an image on one L40S, at 512 px unless it says 1k."""


@dataclass(frozen=True)
class Published:
    """One row: a method on a data set. A metric that the paper does not give is not in `scores`."""

    method: str
    steps: int
    scores: dict[str, float]

    @property
    def table(self) -> str:
        """Where the row stands in the paper."""
        return "tables 1 and 5" if self.steps == 1 else "table 5"

    @property
    def seconds(self) -> float | None:
        """Seconds an image (table 2), None where the paper gives none."""
        return SECONDS.get(self.method) if self.steps == 1 else None


def published(dataset: Dataset) -> list[Published]:
    """The paper's rows for a data set, in its order: methods of many steps, of one step, OMGSR last."""
    return [_row(line) for line in _TABLE_5[dataset].strip().splitlines()]


def _row(line: str) -> Published:
    name, *cells = line.split()
    method, _, steps = name.rpartition("-")
    scores = {metric: float(cell) for metric, cell in zip(METRICS, cells, strict=True) if cell != "-"}
    return Published(method, int(steps.removesuffix("s")), scores)


_TABLE_5: dict[Dataset, str] = {
    "realsr": """
StableSR-200s  24.59 0.7034 0.3063 0.2161 129.21 5.8053  65.31 0.6238 0.6214
DiffBIR-50s    24.27 0.6637 0.3476 0.2293 133.89 5.5127  68.62 0.6559 0.6948
SeeSR-50s      25.24 0.7209 0.2996 0.2223 125.87 5.4136  69.54 0.6458 0.6686
SUPIR-50s      23.68 0.6613 0.3534 0.2475 131.15 6.0864  62.34 0.5795 0.6722
PASD-20s       25.71 0.7266 0.3151 0.2311 133.45 5.7382  68.07 0.6338 0.5798
ResShift-15s   26.26 0.7422 0.3454 0.2494 141.64 7.2546  57.98 0.5265 0.5424
OSEDiff-1s     25.15 0.7341 0.2921 0.2128 123.49 5.6476  69.09 0.6331 0.6693
SinSR-1s       26.14 0.7370 0.3058 0.2325 137.17 6.0522  61.08 0.5433 0.6284
PiSA-SR-1s     25.50 0.7418 0.2672 0.2071 124.13 5.5038  70.15 0.6551 0.6700
TSD-SR-1s      24.78 0.7172 0.2741 0.2112 114.56 5.1302  71.17 0.6353 0.7158
FluxSR-1s      24.83 0.7175 0.3200 0.1910      -      -  68.95 0.5335      -
OMGSR-S-1s     25.70 0.7283 0.2896 0.2103 108.41 5.0571  67.71 0.6544 0.6542
OMGSR-F-1s     26.62 0.7625 0.2586 0.1927 104.34 5.3724  66.45 0.6322 0.5891
""",
    "drealsr": """
StableSR-200s  28.07 0.7441 0.3286 0.2265 144.82 6.6231  58.78 0.5619 0.6237
DiffBIR-50s    25.96 0.6538 0.4503 0.2754 177.89 6.2517  65.42 0.6312 0.6882
SeeSR-50s      28.09 0.7725 0.3134 0.2302 147.62 6.4389  64.91 0.6038 0.6875
SUPIR-50s      25.12 0.6473 0.4236 0.2789 168.75 7.3624  58.46 0.5487 0.6762
PASD-20s       27.82 0.7482 0.3587 0.2518 170.38 6.7914  63.45 0.5935 0.6259
ResShift-15s   28.42 0.7663 0.4004 0.2636 172.16 8.1039  50.48 0.4566 0.5442
OSEDiff-1s     27.92 0.7835 0.2968 0.2165 135.30 6.4902  64.65 0.5895 0.6963
SinSR-1s       28.16 0.7535 0.3498 0.2488 178.84 6.6745  57.04 0.5030 0.6613
PiSA-SR-1s     28.32 0.7804 0.2960 0.2169 130.42 6.1748  66.08 0.6161 0.6964
TSD-SR-1s      27.72 0.7551 0.2970 0.2132 134.76 5.9124  66.58 0.5871 0.7338
OMGSR-S-1s     28.64 0.7698 0.3181 0.2211 127.52 5.7819  63.52 0.6119 0.6747
OMGSR-F-1s     29.58 0.8024 0.2760 0.1975 121.81 6.4835  61.55 0.5926 0.6135
""",
    "div2k": """
StableSR-200s  23.07 0.5702 0.3123 0.2049  24.75 4.7714  65.54 0.6134 0.6748
DiffBIR-50s    23.19 0.5701 0.3439 0.2108  33.23 4.6014  68.33 0.6354 0.7111
SeeSR-50s      23.66 0.6041 0.3178 0.1971  25.61 4.8127  68.21 0.6176 0.6877
SUPIR-50s      22.18 0.5267 0.3923 0.2321  31.48 5.6739  63.74 0.5898 0.7144
PASD-20s       23.80 0.6030 0.3747 0.2309  38.89 4.8547  67.16 0.6101 0.6357
ResShift-15s   24.51 0.6224 0.3455 0.2267  41.98 6.3607  60.43 0.5269 0.5944
OSEDiff-1s     23.69 0.6115 0.2932 0.1974  26.29 4.7086  67.91 0.6143 0.6681
SinSR-1s       24.30 0.6007 0.3251 0.2047  35.37 5.9960  62.79 0.5441 0.6515
PiSA-SR-1s     23.79 0.6062 0.2830 0.1962  25.16 4.5547  69.52 0.6398 0.6907
TSD-SR-1s      23.11 0.5814 0.2691 0.1890  29.32 4.3217  71.59 0.6180 0.7402
FluxSR-1s      22.30 0.6177 0.3397 0.1634      -      -  68.72 0.4615      -
OMGSR-S-1s     23.83 0.5952 0.2926 0.1875  24.46 4.2690  67.04 0.6429 0.6644
OMGSR-F-1s     24.44 0.6237 0.2629 0.1742  21.96 4.7361  67.46 0.6483 0.6555
""",
}
