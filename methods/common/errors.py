"""Errors that a user can mend: one line that says what to do, and no traceback."""

import errno


class UserError(Exception):
    """A mistake or a mishap that the user can mend; its message is one line that says how."""


def explain(error: OSError) -> str | None:
    """Return one line for the failures of disks and folders that every command can meet; None for anything else."""
    where = error.filename2 or error.filename or "the results folder"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"No space is left for {where}: free some and run the same command again; nothing finished is lost."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{where} cannot be written: make the folder writable or work in another one, then run the same command again."
        )
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return (
            f"{where} cannot be a folder, because a file has that name: move the file away and run the same command again."
        )
    if error.errno in (errno.EISDIR, errno.ENOTEMPTY):
        return f"{where} is a folder that is in the way: move it away and run the same command again."
    if error.errno == errno.ENAMETOOLONG:
        return f"{where:.60}... is longer than a name may be: name a shorter one."
    if error.errno == errno.ENOENT:
        return f"{where} does not exist: run the command that makes it first (`snakemake -n` shows the order)."
    return None
