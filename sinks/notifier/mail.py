"""Messages as e-mail, through the operator's relay by SMTP (RFC 5321), with STARTTLS (RFC 3207) unless turned off.

A relay that offers no STARTTLS where it is wanted gets nothing: whoever stands in between could have taken it out.
What comes from tenants goes into headers on one line.
"""

import asyncio
import smtplib
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate
from typing import Final

from pulsestream.core.settings import Settings
from schemas.notification import decode
from sinks.notifier.sending import Claimed, Outcome
from sinks.notifier.wording import one_line

AT_ONCE: Final = 16
SUBJECT: Final = 200


class Mail:
    """E-mail through one relay."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="mail")

    async def __call__(self, claimed: Claimed, now: int) -> Outcome:
        """Make an attempt."""
        settings = self._settings
        if not settings.notify_smtp_host:
            return Outcome(delivered=False, error="this installation sends no e-mail (PULSESTREAM_NOTIFY_SMTP_HOST)")
        message = composed(claimed, settings.notify_from, now)
        loop = asyncio.get_running_loop()
        sending = loop.run_in_executor(self._threads, send, settings, message, claimed.target["to"])
        try:
            return await asyncio.wait_for(sending, settings.notify_timeout)
        except TimeoutError:
            return Outcome(delivered=False, error=f"the mail relay took longer than {settings.notify_timeout:g} s")

    def close(self) -> None:
        """Send nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def composed(claimed: Claimed, sender: str, now: int) -> EmailMessage:
    """Return the e-mail of a message; raises ValueError for an address that is none."""
    text = decode(claimed.document).data.text
    message = EmailMessage(policy=SMTP)
    message["From"] = Address("PulseStream", addr_spec=sender)
    message["To"] = [Address(addr_spec=address) for address in claimed.target["to"]]
    message["Subject"] = one_line(text.partition("\n")[0])[:SUBJECT]
    message["Date"] = formatdate(now)
    message["Message-ID"] = f"<{claimed.id}@{sender.partition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    return message


def send(settings: Settings, message: EmailMessage, to: Sequence[str]) -> Outcome:
    """Hand an e-mail to the relay. Blocks."""
    try:
        with _connected(settings) as relay:
            refused = relay.send_message(message, to_addrs=list(to))
    except smtplib.SMTPRecipientsRefused as error:
        return Outcome(delivered=False, error=f"no recipient was taken: {_said(error.recipients)}")
    except smtplib.SMTPResponseException as error:
        said = one_line(_text(error.smtp_error))
        return Outcome(delivered=False, status=error.smtp_code, error=f"the mail relay answered {said}"[:300])
    except (smtplib.SMTPException, OSError, ssl.SSLError) as error:
        return Outcome(delivered=False, error=f"the mail relay cannot be used: {one_line(str(error))}"[:300])
    return Outcome(delivered=True, status=250, error=f"not taken: {_said(refused)}" if refused else None)


def _connected(settings: Settings) -> smtplib.SMTP:
    """Return a session with the relay, secured and logged in as the settings say."""
    host, port, seconds = settings.notify_smtp_host, settings.notify_smtp_port, settings.notify_timeout
    tls = ssl.create_default_context(cafile=settings.notify_smtp_ca_file)
    if settings.notify_smtp_security == "tls":
        relay: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=seconds, context=tls)
    else:
        relay = smtplib.SMTP(host, port, timeout=seconds)
    try:
        if settings.notify_smtp_security == "starttls":
            relay.starttls(context=tls)
        if settings.notify_smtp_username:
            relay.login(settings.notify_smtp_username, settings.notify_smtp_password.get_secret_value())
    except BaseException:
        relay.close()
        raise
    return relay


def _said(refused: dict[str, tuple[int, bytes]]) -> str:
    return one_line("; ".join(f"{address}: {code} {_text(text)}" for address, (code, text) in refused.items()))[:300]


def _text(said: bytes | str) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else said
