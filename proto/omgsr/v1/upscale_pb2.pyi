from google.rpc import status_pb2 as _status_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UpscaleImageRequest(_message.Message):
    __slots__ = ("options", "data")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    options: Start
    data: bytes
    def __init__(self, options: _Optional[_Union[Start, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class UpscaleImageResponse(_message.Message):
    __slots__ = ("job_id", "mime_type", "width", "height", "data")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    mime_type: str
    width: int
    height: int
    data: bytes
    def __init__(self, job_id: _Optional[str] = ..., mime_type: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class UpscaleRequest(_message.Message):
    __slots__ = ("start", "chunk", "cancel")
    START_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    start: Start
    chunk: Chunk
    cancel: Cancel
    def __init__(self, start: _Optional[_Union[Start, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ...) -> None: ...

class UpscaleResponse(_message.Message):
    __slots__ = ("accepted", "progress", "result_start", "chunk", "failed")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_START_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    accepted: Accepted
    progress: Progress
    result_start: ResultStart
    chunk: Chunk
    failed: Failed
    def __init__(self, accepted: _Optional[_Union[Accepted, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., result_start: _Optional[_Union[ResultStart, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("image_id", "model", "scale", "strength", "color_fix", "format", "quality", "priority", "idempotency_key", "total_bytes", "depth", "metadata", "deadline_s")
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    COLOR_FIX_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    model: str
    scale: float
    strength: float
    color_fix: str
    format: str
    quality: int
    priority: int
    idempotency_key: str
    total_bytes: int
    depth: int
    metadata: str
    deadline_s: float
    def __init__(self, image_id: _Optional[str] = ..., model: _Optional[str] = ..., scale: _Optional[float] = ..., strength: _Optional[float] = ..., color_fix: _Optional[str] = ..., format: _Optional[str] = ..., quality: _Optional[int] = ..., priority: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., total_bytes: _Optional[int] = ..., depth: _Optional[int] = ..., metadata: _Optional[str] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("image_id", "data", "last")
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    data: bytes
    last: bool
    def __init__(self, image_id: _Optional[str] = ..., data: _Optional[bytes] = ..., last: _Optional[bool] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("image_id",)
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    def __init__(self, image_id: _Optional[str] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("image_id", "job_id", "position", "joined")
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    job_id: str
    position: int
    joined: bool
    def __init__(self, image_id: _Optional[str] = ..., job_id: _Optional[str] = ..., position: _Optional[int] = ..., joined: _Optional[bool] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("image_id", "state", "tiles_done", "tiles_total")
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TILES_DONE_FIELD_NUMBER: _ClassVar[int]
    TILES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    state: str
    tiles_done: int
    tiles_total: int
    def __init__(self, image_id: _Optional[str] = ..., state: _Optional[str] = ..., tiles_done: _Optional[int] = ..., tiles_total: _Optional[int] = ...) -> None: ...

class ResultStart(_message.Message):
    __slots__ = ("image_id", "mime_type", "width", "height", "total_bytes")
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    mime_type: str
    width: int
    height: int
    total_bytes: int
    def __init__(self, image_id: _Optional[str] = ..., mime_type: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., total_bytes: _Optional[int] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("image_id", "status")
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    status: _status_pb2.Status
    def __init__(self, image_id: _Optional[str] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...
