#!/usr/bin/env python3
"""Writes what scripts/schemathesis tests with: the API's description, and the settings of a run.

    schemathesis-document.py URL unknown|known FOLDER

FOLDER gets openapi.json and schemathesis.toml. What would keep a test waiting is left out: the stream without end, and
waiting for answers that nobody gives. With `known`, messages, subscriptions, commands and jobs are made first, and only
the calls for things by their ids are tested, with those ids.
"""

import json
import sys
import urllib.request
from itertools import cycle
from pathlib import Path

PATIENCE = 30
# In seconds, for the one call that waits by itself.
SHORT = 0.05
# The one has no end; of a subscription that is no more nothing could be asked; a test's answer may come late.
NEVER = ["stream_notifications"]
NEVER_OF_KNOWN = ["cancel_subscription", "test_subscription"]


def call(url, method, path, body=None):
    """Calls the API with JSON, and reads its answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def without_waiting(description):
    """Leaves out what waits for what does not come."""
    for path in ("/v1/commands", "/v1/queries"):
        operation = description["paths"][path]["post"]
        operation["parameters"] = [each for each in operation["parameters"] if each["name"] != "wait"]
    pull = description["components"]["schemas"]["PullRequest"]
    pull["required"] = ["wait_seconds"]
    pull["properties"]["wait_seconds"] = {"type": "number", "minimum": 0, "maximum": SHORT}
    pull["example"]["wait_seconds"] = SHORT
    pull_call = description["paths"]["/v1/subscriptions/{id}/pull"]["post"]
    pull_call["requestBody"]["required"] = True


def made(url):
    """Makes some of everything that has an id; the ids by what stands in front of them in paths."""

    def subscription(**settings):
        wanted = {"service_name": "tested", "channel": "tested", **settings}
        return call(url, "POST", "/v1/subscriptions", wanted)["subscription_id"]

    def message(**settings):
        wanted = {"channel": "tested", "payload": {"a": 1}, **settings}
        return call(url, "POST", "/v1/messages", wanted)["message_id"]

    def command(**settings):
        return call(url, "POST", "/v1/commands", {"command_type": "tested", **settings})["command_id"]

    subscriptions = [subscription(), subscription(callback_url="http://127.0.0.1:9/nobody")]
    messages = [message(), message(delay_seconds=86_400)]
    commands = [command(), command(reply_to="tested.answers")]
    jobs = [call(url, "POST", f"/v1/messages/{messages[0]}/replay")["job_id"]]
    call(url, "PUT", "/v1/channels/tested", {})
    call(url, "PUT", "/v1/event-types/tested", {})
    return {
        "/v1/subscriptions/": cycle(subscriptions),
        "/v1/messages/": cycle(messages),
        "/message-queue/messages/": cycle(messages[:1]),
        "/message-queue/queues/": cycle(["tested"]),
        "/v1/commands/": cycle(commands),
        "/v1/replays/": cycle(jobs),
        "/v1/channels/": cycle(["tested"]),
        "/v1/event-types/": cycle(["tested"]),
    }


def operations(description):
    """Path and operation of everything that can be called."""
    for path, item in description["paths"].items():
        for operation in item.values():
            yield path, operation


def never(operation_id):
    """The setting that leaves a call out."""
    return f'[[operations]]\ninclude-operation-id = "{operation_id}"\nenabled = false\n'


def with_known_ids(description, ids):
    """The settings that test the calls for things by their ids, with these ids."""
    for path, operation in operations(description):
        name = operation["operationId"]
        names = next((names for start, names in ids.items() if path.startswith(start + "{")), None)
        if names is None or name in NEVER_OF_KNOWN:
            yield never(name)
            continue
        place = next(each["name"] for each in operation["parameters"] if each["in"] == "path")
        known = json.dumps({f"path.{place}": next(names)}).replace('": "', '" = "')
        yield f'[[operations]]\ninclude-operation-id = "{name}"\nparameters = {known}\n'


def main():
    url, ids, folder = sys.argv[1:]
    description = call(url, "GET", "/openapi.json")
    without_waiting(description)
    settings = [never(name) for name in NEVER]
    if ids == "known":
        settings = with_known_ids(description, made(url))
    settings = "\n".join(settings)
    Path(folder, "openapi.json").write_text(json.dumps(description))
    Path(folder, "schemathesis.toml").write_text(settings)


main()
