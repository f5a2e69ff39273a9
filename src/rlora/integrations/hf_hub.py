"""Whether the Hugging Face hub can be reached."""

import urllib.error
import urllib.request
from functools import cache

from huggingface_hub import constants


@cache
def hub_answers(timeout: float = 5.0) -> bool:
    """Return whether the hub can be reached, by one request per process.

    A machine without a route learns this in seconds. The hub's own client retries for half a
    minute.

    Args:
        timeout: Seconds.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=timeout):
            return True
    except urllib.error.HTTPError:
        return True  # an error status is an answer too
    except OSError:
        return False
