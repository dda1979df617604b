"""Runs an MLflow tracking server with everything it keeps in one folder.

Usage: serve.py FOLDER PORT [OPTION...]

It listens on 127.0.0.1 (PORT 0: any), prints the port when it can be used, and ends when its
standard input does: however the test ends that holds the other side, no server is left behind.

Options:
  auth          basic authentication, user `admin`, password `s3cret-password`
  tls           TLS with the certificate FOLDER/server.pem, made here
  client-cert   TLS, and only for who shows FOLDER/client.pem, made here too
"""

import os
import socket
import sys
import threading
from pathlib import Path

folder, port, options = Path(sys.argv[1]), int(sys.argv[2]), set(sys.argv[3:])
folder.mkdir(parents=True, exist_ok=True)


def end_with_standard_input():
    sys.stdin.buffer.read()
    os._exit(0)


threading.Thread(target=end_with_standard_input, daemon=True).start()

backend = f"sqlite:///{folder}/mlflow.db"
root = "mlflow-artifacts:/"
os.environ.update(
    {
        "_MLFLOW_SERVER_FILE_STORE": backend,
        "_MLFLOW_SERVER_REGISTRY_STORE": backend,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": root,
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": os.environ.get(
            "ARTIFACTS", str(folder / "artifacts")
        ),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
)
if "auth" in options:
    ini = folder / "auth.ini"
    ini.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{folder}/auth.db\n"
        "admin_username = admin\nadmin_password = s3cret-password\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(ini)
    os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"] = "any"
    os.environ["_MLFLOW_SGI_NAME"] = "uvicorn"

import mlflow  # noqa: E402  (reads the environment when imported)
from mlflow.server.handlers import initialize_backend_stores  # noqa: E402

initialize_backend_stores(backend, backend, root)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", port))


def announce():
    print(listener.getsockname()[1], flush=True)


def certificates():
    """Two self-signed certificates, each in one file with its key."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.timezone.utc)
    for name in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        usage = x509.ExtendedKeyUsageOID
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([usage.SERVER_AUTH, usage.CLIENT_AUTH]), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        (folder / f"{name}.pem").write_bytes(
            certificate.public_bytes(pem)
            + key.private_bytes(
                pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


if mlflow.__version__.startswith("2."):
    from mlflow.server import app
    from werkzeug.serving import make_server

    listener.listen()
    server = make_server("127.0.0.1", 0, app, threaded=True, fd=listener.fileno())
    announce()
    server.serve_forever()
else:
    import ssl

    import uvicorn

    if "auth" in options:
        from mlflow.server.auth import create_app

        app = create_app()
    else:
        from mlflow.server.fastapi_app import app
    tls = {}
    if options & {"tls", "client-cert"}:
        certificates()
        tls = {"ssl_certfile": str(folder / "server.pem")}
        if "client-cert" in options:
            tls["ssl_cert_reqs"] = ssl.CERT_REQUIRED
            tls["ssl_ca_certs"] = str(folder / "client.pem")

    class Announced(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets=sockets)
            announce()

    Announced(uvicorn.Config(app, log_level="warning", **tls)).run(sockets=[listener])
