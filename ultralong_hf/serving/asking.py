"""A running server, asked what it serves and held to the model's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import EndpointError

if TYPE_CHECKING:
    from ultralong_hf.endpoint import EndpointClient

_WINDOWS = ("max_model_len", "context_length", "max_total_tokens")


@dataclass(frozen=True)
class Served:
    """What a server says of a model. `window` None: it does not say."""

    url: str
    model: str
    window: int | None
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def ask_server(client: EndpointClient, *, name: str, length: int) -> Served:
    """Asks GET /models, and TGI's /info; `name`: the model's, `length`: tokens that it must take.

    Raises EndpointError where there is no server.
    """
    listed = client.get("models").get("data")
    if not isinstance(listed, list):
        raise EndpointError(f"{client.base_url} lists no models: is it a server's address, with its /v1?")
    chosen, notes = _choose([one for one in listed if isinstance(one, Mapping)], name)
    window = _window(chosen)
    if window is None:
        window = _tgi_window(client)
    faults = []
    if window is None:
        notes.append("the server does not say how long a window it has: ask a needle at the full length.")
    elif window < length:
        faults.append(
            f"{client.base_url} serves {window:,} tokens of {length:,}: longer prompts are refused or cut. "
            "Start it with the command above."
        )
    return Served(client.base_url, str(chosen.get("id", "")), window, tuple(faults), tuple(notes))


def _choose(models: list[Mapping[str, Any]], name: str) -> tuple[Mapping[str, Any], list[str]]:
    last = name.rstrip("/").rpartition("/")[2]
    for one in models:
        ids = [str(one.get("id", "")), str(one.get("root", ""))]
        if any(identity.rstrip("/").rpartition("/")[2] in (last, f"{last}.gguf") for identity in ids):
            return one, []
    if not models:  # transformers serve lists what the hub's cache holds, and not a folder that it serves
        return {}, ["the server lists no model."]
    return models[0], [f"the server lists {models[0].get('id')!r}, not {last!r}: it was taken for the model."]


def _window(model: Mapping[str, Any]) -> int | None:
    meta = model.get("meta")
    if isinstance(meta, Mapping):  # llama.cpp
        found = meta.get("n_ctx") or meta.get("n_ctx_train")
        return int(found) if found else None
    return next((int(model[key]) for key in _WINDOWS if model.get(key)), None)


def _tgi_window(client: EndpointClient) -> int | None:
    """TGI tells it beside the OpenAI paths."""
    try:
        found = client.get("../info").get("max_total_tokens")
    except EndpointError:
        return None
    return int(found) if isinstance(found, int) else None
