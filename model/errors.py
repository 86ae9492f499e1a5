"""What can go wrong with models on disk and in training, free of torch so that the command line can tell it quickly."""


class ModelFilesError(ValueError):
    """Something on disk is not what a model needs; the message says which file and what to do."""


class TrainingError(RuntimeError):
    """Training cannot start or go on; the message says why and what to do."""


class DataError(ValueError):
    """Photos are missing, without a partner, unreadable or of sizes that do not fit; the message names the file."""
