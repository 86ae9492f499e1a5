"""What can be wrong with a model on disk, free of torch so that the command line can tell it quickly."""


class ModelFilesError(ValueError):
    """Something on disk is not what a model needs; the message says which file and what to do."""
