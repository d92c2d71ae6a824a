"""Evaluations by the command line, and what they leave behind."""

import argparse
import json

from beta_clip_cli.evaluate import add_arguments, run


def command(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(word) for word in words]))


def tasks_of(output):
    return json.loads((output / "results.json").read_text())["tasks"]


def results_of(output):
    """What results.json and the values beside it hold, in its order, but for times."""
    results = json.loads((output / "results.json").read_text())
    del results["created"]
    for task in results["tasks"].values():
        del task["seconds"]
    return json.dumps(results), {
        name: (output / "values" / f"{name}.safetensors").read_bytes() for name in results["tasks"]
    }
