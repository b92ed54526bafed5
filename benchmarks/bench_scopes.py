"""What does it cost to enter and leave a scope of custom objects?"""

from __future__ import annotations

import statistics
import time

from benchmarks._harness import figure, store
from torchkutils import custom_object_scope, get_custom_objects, register_keras_serializable


class Registered:
    """Something to register a thousand times over."""

    def get_config(self) -> dict[str, int]:
        return {}


def microseconds(names: dict[str, object], rounds: int = 2000) -> list[float]:
    found = []
    for _ in range(15):
        start = time.perf_counter()
        for _ in range(rounds):
            with custom_object_scope(names):
                pass
        found.append((time.perf_counter() - start) / rounds * 1e6)
    return found


if __name__ == "__main__":
    for number in range(1000):
        register_keras_serializable("Bench", f"kind{number}")(type(f"Kind{number}", (Registered,), {}))
    names: dict[str, object] = {f"name{number}": object() for number in range(10)}
    results = [
        figure("enter and leave, 10 names, 1,000 registered", statistics.median(microseconds(names)), "µs", target=20)
    ]
    get_custom_objects().update({f"global{number}": object() for number in range(1000)})
    results.append(
        figure("enter and leave, 10 names, 1,000 global names too", statistics.median(microseconds(names)), "µs")
    )
    store("scopes", results)
