"""Uploads of exported folders to the Hugging Face hub."""

from pathlib import Path
from typing import Any


def push(folder: Path, name: str, *, public: bool = False, api: Any = None) -> str:
    """Upload a folder and return the URL of its repository.

    Args:
        folder: An exported folder.
        name: "USER/NAME", or "NAME" for a repository of the user who is logged in.
        public: Whether everybody can see the repository.
        api: A replacement of `huggingface_hub.HfApi()`, for tests.

    Raises:
        ValueError: The hub is unreachable or rejects the upload.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    api = api or huggingface_hub.HfApi()
    try:
        url = api.create_repo(name, private=not public, exist_ok=True)
        api.upload_folder(
            folder_path=str(folder), repo_id=url.repo_id, commit_message="Upload export of rlora"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"--push-to-hub {name} failed: {reason}; check the name and run `hf auth login`"
        ) from error
    return str(url)
