"""The one error a user's mistake raises: what is wrong, where, and how to mend it."""


class InputError(ValueError):
    """Bad input, named so that it can be mended; the command line prints it and exits with status 2.

    Args:
        problem: what is wrong, in one sentence.
        where: the file, line or key at fault ("pairs.jsonl, line 12").
        mend: what the user can do about it.
    """

    def __init__(self, problem: str, *, where: str = "", mend: str = "") -> None:
        self.problem = problem
        self.where = where
        self.mend = mend
        parts = [f"{where}: {problem}" if where else problem]
        if mend:
            parts.append(mend)
        super().__init__("\n  ".join(parts))
