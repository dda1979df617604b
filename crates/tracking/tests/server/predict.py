"""Loads a model from an MLflow server with mlflow.pyfunc, and prints what it predicts as JSON.

Usage: predict.py SERVER MODEL_URI TEXT
"""

import json
import sys

import mlflow.pyfunc

server, model, text = sys.argv[1:]
mlflow.set_tracking_uri(server)
json.dump(mlflow.pyfunc.load_model(model).predict([text]), sys.stdout)
