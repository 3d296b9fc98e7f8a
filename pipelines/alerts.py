"""Telling people: the log always, a webhook and e-mail where they are set.

An alert that cannot be delivered is an error in the log, never a reason to stop what it tells of.
"""

import datetime as dt
import logging
import smtplib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage

import requests
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from pipelines.redaction import redact

_LOG = logging.getLogger("isobar.alerts")
_TIMEOUT_SECONDS = 10.0


class AlertSettings(BaseModel):
    """Who is told when trading stops or a run fails; the log is always told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    webhook_url: SecretStr = Field(SecretStr(""), description="Address that takes a JSON `text`")
    email_to: tuple[str, ...] = Field((), description="Who gets e-mail")
    email_from: str = Field("isobar@localhost", description="Sender of e-mail")
    smtp_host: str = Field("localhost", description="Server that sends e-mail")
    smtp_port: int = Field(25, ge=1, le=65_535, description="Its port")
    smtp_user: str = Field("", description="User there; with one the connection is encrypted")
    smtp_password: SecretStr = Field(SecretStr(""), description="Its password")


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a person must know now."""

    at: dt.datetime
    subject: str
    text: str


def send_alert(settings: AlertSettings, alert: Alert) -> list[str]:
    """Tell of something, everywhere that is set.

    Parameters
    ----------
    settings : AlertSettings
        Where to.
    alert : Alert
        What. Secrets in it are taken out.

    Returns
    -------
    list of str
        Where it arrived: ``log``, ``webhook``, ``email``.
    """
    # One line: neither a log nor the header of a mail takes two.
    subject, text = " ".join(redact(alert.subject).split()), redact(alert.text)
    _LOG.warning("%s: %s", subject, text)
    told = ["log"]
    if settings.webhook_url.get_secret_value():
        told += _deliver("webhook", lambda: _post(settings, subject, text, alert.at))
    if settings.email_to:
        told += _deliver("email", lambda: _mail(settings, subject, text, alert.at))
    return told


def _deliver(where: str, deliver: Callable[[], None]) -> list[str]:
    try:
        deliver()
    except (OSError, ValueError, smtplib.SMTPException, requests.RequestException) as error:
        # The kind of error alone: its text may quote the address, and that is a secret.
        _LOG.error("the alert did not reach the %s (%s)", where, type(error).__name__)
        return []
    return [where]


def _post(settings: AlertSettings, subject: str, text: str, at: dt.datetime) -> None:
    body = {"text": f"{subject}: {text}", "subject": subject, "detail": text, "at": at.isoformat()}
    answer = requests.post(
        settings.webhook_url.get_secret_value(), json=body, timeout=_TIMEOUT_SECONDS
    )
    answer.raise_for_status()


def _mail(settings: AlertSettings, subject: str, text: str, at: dt.datetime) -> None:
    message = EmailMessage()
    message["Subject"] = f"Isobar: {subject}"
    message["From"] = settings.email_from
    message["To"] = ", ".join(settings.email_to)
    message.set_content(f"{text}\n\n{at.isoformat()}\n")
    with smtplib.SMTP(
        settings.smtp_host, settings.smtp_port, timeout=_TIMEOUT_SECONDS
    ) as connection:
        if settings.smtp_user:
            connection.starttls(context=ssl.create_default_context())
            connection.login(settings.smtp_user, settings.smtp_password.get_secret_value())
        connection.send_message(message)
