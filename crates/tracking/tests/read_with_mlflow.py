"""Prints as JSON what MLflow's own client reads of one run in a file store or on a server.

Usage: read_with_mlflow.py STORE RUN_ID, with the packages of requirements-3.txt or
requirements-2.txt beside this file.
"""

import json
import os
import sys

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"

import mlflow  # noqa: E402  (reads the variable when imported)

store, run_id = sys.argv[1:]
mlflow.set_tracking_uri(store)
client = mlflow.MlflowClient()
run = client.get_run(run_id)


def artifacts(path=None):
    for found in client.list_artifacts(run_id, path):
        if found.is_dir:
            yield from artifacts(found.path)
        else:
            yield [found.path, found.file_size]


json.dump(
    {
        "experiments": sorted(e.name for e in client.search_experiments()),
        "experiment": client.get_experiment(run.info.experiment_id).name,
        "runs": [r.info.run_id for r in client.search_runs([run.info.experiment_id])],
        "run_name": run.info.run_name,
        "user": run.info.user_id,
        "status": run.info.status,
        "start_time": run.info.start_time,
        "end_time": run.info.end_time,
        "params": run.data.params,
        "tags": run.data.tags,
        # float.hex tells every bit; nan and inf are words in it.
        "metrics": {
            key: [
                [m.timestamp, float(m.value).hex(), m.step]
                for m in client.get_metric_history(run_id, key)
            ]
            for key in run.data.metrics
        },
        "artifacts": sorted(artifacts()),
        "datasets": sorted(
            [i.dataset.name, i.dataset.digest]
            + [tag.value for tag in i.tags if tag.key == "mlflow.data.context"]
            for i in run.inputs.dataset_inputs
        ),
    },
    sys.stdout,
)
