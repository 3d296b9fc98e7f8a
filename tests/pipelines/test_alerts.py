"""People are told where it is set; what cannot be delivered is a line in the log and no more."""

from __future__ import annotations

import datetime as dt
import email
import email.policy
import logging
import socket
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Response
from pydantic import SecretStr

from market.serving import BackgroundServer
from pipelines.alerts import Alert, AlertSettings, send_alert
from pipelines.redaction import hide
from pipelines.settings import Settings, hide_secrets

AT = dt.datetime(2025, 3, 4, 15, 0, tzinfo=dt.UTC)
ALERT = Alert(AT, "trading is halted", "reconciliation: position_drift A (journal 5, account 2)")
TOKEN = "needle-hook-5c81"
PASSWORD = "needle-mail-77af"


class Hook:
    """A receiver of webhooks."""

    def __init__(self, status: int = 200) -> None:
        self.got: list[dict[str, Any]] = []
        self.app = FastAPI()

        @self.app.post(f"/{TOKEN}")
        def take(body: dict[str, Any]) -> Response:
            self.got.append(body)
            return Response(status_code=status)


class Mailbox(socketserver.TCPServer):
    """A server that speaks just enough SMTP to take a message."""

    allow_reuse_address = True

    def __init__(self, refuses: bool = False) -> None:
        self.messages: list[email.message.EmailMessage] = []
        self.recipients: list[str] = []
        self.refuses = refuses
        super().__init__(("127.0.0.1", 0), _Conversation)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def __enter__(self) -> Mailbox:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Conversation(socketserver.StreamRequestHandler):
    server: Mailbox

    def handle(self) -> None:
        self._say("220 ready")
        while line := self.rfile.readline():
            word, _, rest = line.decode().strip().partition(" ")
            match word.upper():
                case "RCPT" if self.server.refuses:
                    self._say("550 no such user")
                case "RCPT":
                    self.server.recipients.append(rest)
                    self._say("250 ok")
                case "DATA":
                    self._say("354 go on")
                    self._take()
                    self._say("250 ok")
                case "QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 ok")

    def _take(self) -> None:
        lines: list[bytes] = []
        while (line := self.rfile.readline()) != b".\r\n":
            lines.append(line)
        made = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
        assert isinstance(made, email.message.EmailMessage)
        self.server.messages.append(made)

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


def by_mail(port: int, **changes: Any) -> AlertSettings:
    fields = {"email_to": ("desk@example.com", "risk@example.com"), "smtp_host": "127.0.0.1"}
    return AlertSettings.model_validate({**fields, "smtp_port": port, **changes})


def hook_at(url: str) -> AlertSettings:
    return AlertSettings(webhook_url=SecretStr(f"{url}/{TOKEN}"))


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port that is bound and where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_the_log_is_always_told(caplog: pytest.LogCaptureFixture):
    assert send_alert(AlertSettings(), ALERT) == ["log"]
    assert [r.getMessage() for r in caplog.records] == [f"{ALERT.subject}: {ALERT.text}"]
    assert caplog.records[0].levelno == logging.WARNING


def test_a_webhook_gets_the_alert():
    hook = Hook()
    with BackgroundServer(hook.app) as server:
        assert send_alert(hook_at(server.url), ALERT) == ["log", "webhook"]
    assert hook.got == [
        {
            "text": f"{ALERT.subject}: {ALERT.text}",
            "subject": ALERT.subject,
            "detail": ALERT.text,
            "at": AT.isoformat(),
        }
    ]


def test_mail_goes_to_everyone_named():
    with Mailbox() as mailbox:
        assert send_alert(by_mail(mailbox.port), ALERT) == ["log", "email"]
    (message,) = mailbox.messages
    assert message["Subject"] == f"Isobar: {ALERT.subject}"
    assert message["To"] == "desk@example.com, risk@example.com"
    assert message["From"] == "isobar@localhost"
    assert [r.lower() for r in mailbox.recipients] == [
        "to:<desk@example.com>",
        "to:<risk@example.com>",
    ]
    body = message.get_content()
    assert ALERT.text in body
    assert AT.isoformat() in body


def test_a_subject_of_two_lines_is_told_in_one():
    with Mailbox() as mailbox:
        broken = Alert(AT, "run trade failed\nBcc: all@example.com", "x")
        assert send_alert(by_mail(mailbox.port), broken) == ["log", "email"]
    (message,) = mailbox.messages
    assert message["Subject"] == "Isobar: run trade failed Bcc: all@example.com"
    assert message["Bcc"] is None


@pytest.mark.parametrize("status", [404, 500])
def test_a_webhook_that_refuses_is_a_line_in_the_log(caplog, status: int):
    hook = Hook(status)
    with BackgroundServer(hook.app) as server:
        assert send_alert(hook_at(server.url), ALERT) == ["log"]
    assert len(hook.got) == 1
    assert "did not reach the webhook (HTTPError)" in caplog.text
    assert TOKEN not in caplog.text


def test_nobody_there_stops_nothing_and_the_other_way_is_still_tried(caplog, nobody: int):
    with Mailbox() as mailbox:
        both = by_mail(mailbox.port, webhook_url=f"http://127.0.0.1:{nobody}/{TOKEN}")
        assert send_alert(both, ALERT) == ["log", "email"]
    assert send_alert(by_mail(nobody), ALERT) == ["log"]
    assert "did not reach the webhook" in caplog.text
    assert "did not reach the email" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook_url": f"no-address-{TOKEN}", "email_to": ()},
        {"email_from": "one@example.com\nBcc: two@example.com"},
        {"smtp_user": "desk", "smtp_password": PASSWORD},
    ],
)
def test_settings_that_cannot_work_are_a_line_in_the_log(caplog, changes: dict[str, Any]):
    with Mailbox() as mailbox:
        # A server without encryption is given no password.
        assert send_alert(by_mail(mailbox.port, **changes), ALERT) == ["log"]
    assert mailbox.messages == []
    assert "did not reach" in caplog.text
    assert TOKEN not in caplog.text
    assert PASSWORD not in caplog.text


def test_a_server_that_refuses_a_recipient_is_a_line_in_the_log(caplog):
    with Mailbox(refuses=True) as mailbox:
        assert send_alert(by_mail(mailbox.port), ALERT) == ["log"]
    assert "did not reach the email (SMTPRecipientsRefused)" in caplog.text


def test_secrets_in_an_alert_reach_neither_log_nor_webhook(caplog):
    hook, secret = Hook(), "needle-key-0d41"
    hide({secret})
    with BackgroundServer(hook.app) as server:
        told = Alert(AT, f"run {secret} failed", f"GET /orders?key={secret}")
        send_alert(hook_at(server.url), told)
    assert secret not in str(hook.got)
    assert secret not in caplog.text
    assert "[secret]" in hook.got[0]["detail"]


def test_the_secrets_of_alerts_are_hidden_and_not_shown(caplog):
    # Secrets of their own: what is hidden stays hidden for the tests that follow.
    address, password = "needle-hook-hidden", "needle-mail-hidden"
    alerts = AlertSettings(webhook_url=SecretStr(address), smtp_password=SecretStr(password))
    hide_secrets(Settings(alerts=alerts))
    assert send_alert(AlertSettings(), Alert(AT, "s", f"{address} {password}")) == ["log"]
    for text in (caplog.text, repr(alerts), str(alerts), alerts.model_dump_json()):
        assert address not in text
        assert password not in text
