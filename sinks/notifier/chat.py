"""Messages into chats: Slack's incoming webhooks and Telegram's bot API, and what is compatible with them.

Both take words. What they could take for markup or for a mention is escaped, or sent as plain text.
"""

from typing import Any, Final

import msgspec

from schemas.notification import decode
from sinks.notifier.outbound import Answer, Client, OutboundError
from sinks.notifier.sending import Claimed, Outcome, of_answer

SLACK_MOST: Final = 4000
TELEGRAM_MOST: Final = 4096
"""UTF-16 units of a text ("sendMessage", Telegram's bot API)."""
_FIELDS: Final = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
_CUT: Final = "…"


class Slack:
    """A POST to an incoming webhook, whose address is the secret."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __call__(self, claimed: Claimed, now: int) -> Outcome:
        """Make an attempt."""
        body = {"text": slack_text(decode(claimed.document).data.text)}
        return await _post(self._client, claimed.secret or "", body, now)


class Telegram:
    """A call of sendMessage."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __call__(self, claimed: Claimed, now: int) -> Outcome:
        """Make an attempt."""
        url = f"{claimed.target['base_url']}/bot{claimed.secret or ''}/sendMessage"
        text = shortened(decode(claimed.document).data.text, TELEGRAM_MOST)
        return await _post(self._client, url, {"chat_id": claimed.target["chat_id"], "text": text}, now, of_telegram)


async def _post(client: Client, url: str, body: dict[str, str], now: int, judge: Any = of_answer) -> Outcome:
    try:
        answer = await client.post(url, _FIELDS, msgspec.json.encode(body))
    except OutboundError as error:
        return Outcome(delivered=False, error=str(error))
    outcome: Outcome = judge(answer, now)
    return outcome


def slack_text(text: str) -> str:
    """Return a text without markup ("Formatting text", Slack's documentation): nobody is mentioned by a rule's name."""
    for sign, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, escaped)
    return shortened(text, SLACK_MOST)


def shortened(text: str, most: int) -> str:
    """Return the beginning of a text that has at most so many UTF-16 units."""
    units = text.encode("utf-16-le")
    if len(units) <= most * 2:
        return text
    return units[: (most - 1) * 2].decode("utf-16-le", "ignore") + _CUT


def of_telegram(answer: Answer, now: int) -> Outcome:
    """Return what an answer of the bot API means: it says `ok`, and how long to wait in its body."""
    outcome = of_answer(answer, now)
    try:
        said = msgspec.json.decode(answer.body, type=_Said)
    except msgspec.MsgspecError:
        said = _Said(ok=False, description="it is not one of Telegram's bot API")
    if outcome.delivered and said.ok:
        return outcome
    wish = outcome.wish if said.parameters.retry_after is None else float(said.parameters.retry_after)
    error = f"answered {answer.status}: {said.description[:200]}"
    return Outcome(
        delivered=False, status=answer.status, error=error, response=outcome.response, wish=wish, gone=outcome.gone
    )


class _Parameters(msgspec.Struct):
    retry_after: int | None = None


class _Said(msgspec.Struct):
    ok: bool
    description: str = ""
    parameters: _Parameters = msgspec.field(default_factory=_Parameters)
