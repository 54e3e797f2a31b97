"""An OpenAI-compatible chat endpoint: one question, one reply. Needs the extra `[judge]`."""

import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from activations.errors import InputError

MAX_TOKENS = 512  # room for a model that thinks first
TIMEOUT = 120.0  # seconds; a large model on a small machine
RETRIES = 2  # after a refused connection, a rate limit or a fault of the server
GOES_ON = "what is done is kept, and the same command goes on from there"


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Endpoint:
    """One model of an endpoint.

    Args:
        url: its address, which holds no credentials.
        key: the API key, "" where none is sent; it is taken out of whatever the endpoint says.
    """

    url: str
    model: str
    client: Any = field(repr=False)
    key: str = field(repr=False)

    def ask(self, messages: list[dict[str, str]]) -> str:
        """The reply to a chat, at temperature 0.

        Raises:
            InputError: the endpoint cannot be reached, refuses, or is no chat endpoint.
        """
        import openai

        try:
            found = self.client.chat.completions.create(
                model=self.model, messages=messages, temperature=0, max_tokens=MAX_TOKENS
            )
            reply = found.choices[0].message.content or ""  # null where the model refuses or calls a tool
            return self._without_key("" + reply)
        except openai.OpenAIError as error:
            raise InputError(
                f"gives no answer: {self._said(error)}",
                where=self.url,
                mend=f"{_mend(getattr(error, 'status_code', None))}; {GOES_ON}",
            ) from error
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                "does not answer as a chat endpoint does",
                where=self.url,
                mend=f"--url is what comes before /chat/completions, often ending in /v1; {GOES_ON}",
            ) from error

    def _said(self, error: Exception) -> str:
        """An error in one line: the server may have written anything, the key too."""
        text = self._without_key(str(error))
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]

    def _without_key(self, text: str) -> str:
        # A word of a few letters, which local servers take for a key, is no secret and may stand in any text.
        return text.replace(self.key, "[key]") if len(self.key) >= 8 else text


def open_endpoint(url: str, model: str, key_env: str | None) -> Endpoint:
    """An endpoint, not yet asked anything.

    Args:
        url: http or https address before /chat/completions.
        model: the name the endpoint knows it by.
        key_env: the environment variable that holds the API key; None sends none.

    Raises:
        InputError: no address, model or key, or the openai package is missing.
    """
    try:
        import openai
    except ImportError as error:
        raise InputError(
            f"a judge needs the extra [judge] ({error})", mend="pip install -c constraints.txt -e '.[judge]'"
        ) from error
    address = _address(url)
    if not model.strip() or not model.isprintable():
        raise InputError("names no model", where="--model", mend="give the name that the endpoint knows it by")
    key = _key(key_env) if key_env is not None else ""
    # Without a key the client would look for one in the environment by itself and send it to whatever address.
    client = openai.OpenAI(base_url=address, api_key=key or "none", timeout=TIMEOUT, max_retries=RETRIES)
    return Endpoint(url=address, model=model, client=client, key=key)


def _address(url: str) -> str:
    mend = "an address like http://localhost:8000/v1"
    try:
        parts = urlsplit(url)
        odd = (
            not url.isascii()
            or not url.isprintable()
            or " " in url
            or parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.port == 0
        )
    except ValueError:
        odd = True
    if odd:
        raise InputError("is no http or https address", where="--url", mend=mend)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InputError(
            "holds more than an address: a user, password, query or fragment",
            where="--url",
            mend=f"{mend}; a key belongs in an environment variable, named with --key-env",
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _key(name: str) -> str:
    key = os.environ.get(name, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise InputError(  # which does not repeat the name: it may be the key itself
            "no environment variable of this name holds an API key",
            where="--key-env",
            mend="export the key, and give the variable's name, not the key",
        )
    return key


def _mend(status: int | None) -> str:
    if status in (401, 403):
        return "name the environment variable that holds its API key with --key-env"
    if status in (400, 404, 422):
        return "check --url, which often ends in /v1, and --model"
    return "see that the server runs and --url is its address"
