"""Memory that training has freed and will ask for again in the next step."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Keep what this process frees, to its end, where the C library is glibc; returns whether it is.

    By default large tensors go back to Linux in every step and come again as fresh pages, one fault each. A process
    that trains on a CPU will need them again.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_M_MMAP_MAX, 0))
