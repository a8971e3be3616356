"""A disk that is full."""

import resource
from contextlib import contextmanager


@contextmanager
def largest_file(size: int):
    """No file of this process may grow beyond `size` bytes in the block, as on a disk that is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
