"""Uploading an exported directory to the Hugging Face hub."""

from pathlib import Path
from typing import Any


def push(folder: Path, name: str, *, public: bool = False, api: Any = None) -> str:
    """Upload a directory; gives its address.

    Args:
        folder: An exported directory.
        name: "USER/NAME", or "NAME" below the user who is logged in.
        public: Whether everybody may see it.
        api: Stands in for `huggingface_hub.HfApi()`.

    Raises:
        ValueError: the hub cannot be reached, or refuses.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    api = api or huggingface_hub.HfApi()
    try:
        address = api.create_repo(name, private=not public, exist_ok=True)
        api.upload_folder(
            folder_path=str(folder), repo_id=address.repo_id, commit_message="Export of rlora"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"--push-to-hub {name}: the hub did not take it ({reason}); see hf auth login"
        ) from error
    return str(address)
