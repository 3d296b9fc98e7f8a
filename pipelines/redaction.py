"""Secrets are kept out of logs and messages, whoever writes them."""

import logging
import traceback
from collections.abc import Set
from typing import Any


def hide(secrets: Set[str]) -> None:
    """Make every log handler, present and future, redact these too."""
    _Redactor.secrets |= secrets
    if not _Redactor.installed:
        _Redactor.installed = True
        make = logging.getLogRecordFactory()

        def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
            return _Redactor.clean_record(make(*args, **kwargs))

        logging.setLogRecordFactory(factory)


class _Redactor:
    secrets: set[str] = set()  # noqa: RUF012
    installed = False

    @classmethod
    def clean(cls, text: str) -> str:
        for secret in cls.secrets:
            text = text.replace(secret, "[secret]")
        return text

    @classmethod
    def clean_record(cls, record: logging.LogRecord) -> logging.LogRecord:
        try:
            record.msg, record.args = cls.clean(record.getMessage()), ()
        except (TypeError, ValueError, KeyError):
            # Arguments that do not fit their message: logging reports it when it formats them.
            record.msg = cls.clean(str(record.msg))
            record.args = tuple(cls.clean(repr(a)) for a in record.args or ())
        if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
            # A formatter takes this text, where there is one, instead of the exception's.
            lines = traceback.format_exception(*record.exc_info)
            record.exc_text = cls.clean("".join(lines).rstrip("\n"))
        return record


def redact(text: str) -> str:
    """Return ``text`` without any configured secret."""
    return _Redactor.clean(text)
