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
from pathlib import Path

PATIENCE = 30
# So many that whoever pulls need not wait.
MESSAGES = 100
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


def makers(url):
    """What makes things that have an id: by what stands in front of it in paths, and by the call that needs its own."""

    def subscription(channel="tested", **settings):
        wanted = {"service_name": "tested", "channel": channel, **settings}
        return call(url, "POST", "/v1/subscriptions", wanted)["subscription_id"]

    def message(**settings):
        wanted = {"channel": "tested.once", "payload": {"a": 1}, **settings}
        return call(url, "POST", "/v1/messages", wanted)["message_id"]

    def command():
        wanted = {"command_type": "tested", "reply_to": "tested.answers"}
        return call(url, "POST", "/v1/commands", wanted)["command_id"]

    def job():
        return call(url, "POST", f"/v1/messages/{message()}/replay")["job_id"]

    # To whom the messages go, so that there is something to be acknowledged.
    subscription("tested.once")
    call(url, "PUT", "/v1/channels/tested", {})
    call(url, "PUT", "/v1/event-types/tested", {})
    by_place = {
        "/v1/subscriptions/": subscription,
        "/v1/messages/": message,
        "/message-queue/messages/": message,
        "/message-queue/queues/": lambda: "tested",
        "/v1/commands/": command,
        "/v1/replays/": job,
        "/v1/channels/": lambda: "tested",
        "/v1/event-types/": lambda: "tested",
    }
    # What was pulled comes again after a second.
    again = {"max_retries": 100, "retry_delay": 0, "backoff_multiplier": 1}
    by_call = {
        "cancel_message": lambda: message(delay_seconds=86_400),
        "pull_deliveries": lambda: subscription(ack_timeout=1, retry_policy=again),
    }
    return by_place, by_call


def operations(description):
    """Path and operation of everything that can be called."""
    for path, item in description["paths"].items():
        for operation in item.values():
            yield path, operation


def never(operation_id):
    """The setting that leaves a call out."""
    return f'[[operations]]\ninclude-operation-id = "{operation_id}"\nenabled = false\n'


def with_known_ids(url, description):
    """The settings that test the calls for things by their ids, each with one of its own."""
    by_place, by_call = makers(url)
    for path, operation in operations(description):
        name = operation["operationId"]
        make = next((make for start, make in by_place.items() if path.startswith(start + "{")), None)
        if make is None or name in NEVER_OF_KNOWN:
            yield never(name)
            continue
        place = next(each["name"] for each in operation["parameters"] if each["in"] == "path")
        known = json.dumps(by_call.get(name, make)())
        yield f'[[operations]]\ninclude-operation-id = "{name}"\nparameters = {{ "path.{place}" = {known} }}\n'
    # What the subscriptions can pull.
    for number in range(MESSAGES):
        call(url, "POST", "/v1/messages", {"channel": "tested", "payload": {"n": number}})


def main():
    url, ids, folder = sys.argv[1:]
    description = call(url, "GET", "/openapi.json")
    without_waiting(description)
    settings = [never(name) for name in NEVER]
    if ids == "known":
        settings = with_known_ids(url, description)
    settings = "\n".join(settings)
    Path(folder, "openapi.json").write_text(json.dumps(description))
    Path(folder, "schemathesis.toml").write_text(settings)


main()
