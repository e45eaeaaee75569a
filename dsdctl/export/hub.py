"""An exported network on the Hugging Face Hub."""

from pathlib import Path

from dsdctl.errors import InputError, WorkError

INSTALL = "pip install 'dsdctl[hub]'"


def check_hub(repository: str) -> None:
    """Check, before anything is computed, that `repository` (USER/NAME) can be written to.

    Raises InputError where the client is not installed, the name is none that the Hub takes, or
    there is no token that may write.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise InputError(f"--push: needs huggingface_hub ({INSTALL})") from None

    try:
        user = HfApi().whoami()
        HfApi().repo_exists(repository)
    except _errors_of_the_hub() as error:
        raise InputError(f"--push: {repository}: {_first_line(error)}") from error
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise InputError(f"--push: {repository}: the token of {user.get('name')} may only read")


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Upload the files of an export; return the page of the repository, made if it is not there.

    Raises WorkError, which says how to send them later.
    """
    from huggingface_hub import HfApi

    try:
        page = HfApi().create_repo(repository, private=private or None, exist_ok=True)
        HfApi().upload_folder(
            repo_id=repository, folder_path=folder, commit_message=f"Upload {folder.name}"
        )
    except _errors_of_the_hub() as error:
        later = f"`hf upload {repository} {folder}` sends what is in {folder}"
        raise WorkError(f"--push: {repository}: {_first_line(error)}; {later}") from error
    return str(page)


def _errors_of_the_hub() -> tuple[type[Exception], ...]:
    """What the client raises of a name, of the Hub, and of the way there."""
    from huggingface_hub import errors

    # The last one is httpx's or httpx2's, as the client's version has it.
    return OSError, errors.HFValidationError, errors.HTTPError  # type: ignore[attr-defined]


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
