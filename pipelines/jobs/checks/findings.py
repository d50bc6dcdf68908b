"""How a check says what it found. The code is that of the check, where it says none itself."""

from __future__ import annotations

from dataclasses import replace

from pipelines.errors import Exit, Finding, UserError


def ok(subject: str, message: str, code: str = "") -> Finding:
    return Finding(code, "ok", subject, message)


def skipped(subject: str, why: str, code: str = "") -> Finding:
    return Finding(code, "skipped", subject, why)


def warning(subject: str, message: str, remedy: str = "", code: str = "") -> Finding:
    return Finding(code, "warning", subject, message, remedy)


def error(subject: str, message: str, remedy: str = "", code: str = "", exit: Exit = Exit.USAGE) -> Finding:
    return Finding(code, "error", subject, message, remedy, exit)


def reported(problem: UserError, subject: str = "", code: str = "") -> Finding:
    """The first thing that an error says, with a subject and a code where it has none itself."""
    first = problem.findings[0]
    return replace(first, subject=first.subject or subject, code=first.code or code)


def coded(problem: UserError, code: str, subject: str = "") -> UserError:
    """The error, with a code and a subject where it has none."""
    problem.findings = tuple(replace(f, code=f.code or code, subject=f.subject or subject) for f in problem.findings)
    return problem
