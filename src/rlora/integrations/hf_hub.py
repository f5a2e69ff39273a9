"""The Hugging Face hub, asked once."""

import urllib.error
import urllib.request
from functools import cache

from huggingface_hub import constants


@cache
def hub_answers(timeout: float = 5.0) -> bool:
    """Whether the hub can be reached from here.

    One request, so that a machine without a route fails in seconds; the hub's own client would retry for half a minute.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=timeout):
            return True
    except urllib.error.HTTPError:
        return True  # an answer, if an unfriendly one
    except OSError:
        return False
