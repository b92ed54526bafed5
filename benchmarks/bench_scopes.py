"""What does it cost to enter and leave a scope of custom objects, here and in Keras 3?"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras

import torchkutils
from benchmarks._harness import clocked, compare, store

NOTE = (
    "Each registers a thousand classes of its own first. Keras 3 copies the names that were registered, and puts the "
    "copy back; ours belong to the thread or task, Keras's to the whole process."
)


class Registered:
    """Something to register a thousand times over."""

    def get_config(self) -> dict[str, int]:
        return {}


def register(decorator: Callable[..., Any]) -> None:
    for number in range(1000):
        decorator("Bench", f"kind{number}")(type(f"Kind{number}", (Registered,), {}))


def entering(scope: Callable[[dict[str, object]], Any], names: dict[str, object], times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            with scope(names):
                pass

    return run


def main() -> None:
    register(torchkutils.register_keras_serializable)
    register(keras.saving.register_keras_serializable)
    names: dict[str, object] = {f"name{number}": object() for number in range(10)}
    ours = entering(torchkutils.custom_object_scope, names, 1)
    rows = [
        clocked("enter and leave, 10 names, 1,000 registered", ours, "µs", target=20, calls=2000),
        compare(
            "a thousand times in and out, 10 names, 1,000 registered",
            entering(torchkutils.custom_object_scope, names, 1000),
            {"Keras 3": entering(keras.saving.custom_object_scope, names, 1000)},
            note=NOTE,
        ),
    ]
    torchkutils.get_custom_objects().update({f"global{number}": object() for number in range(1000)})
    rows.append(clocked("enter and leave, 10 names, 1,000 global names too", ours, "µs", calls=2000))
    store("scopes", rows)


if __name__ == "__main__":
    main()
