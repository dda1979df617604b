"""What the tests need of Azure's own client.

    azure_sdk.py CONNECTION create CONTAINER
    azure_sdk.py CONNECTION list CONTAINER     -> {"name": {"bytes", "sha256", "type", "json"}}
    azure_sdk.py CONNECTION read CONTAINER NAME     -> the content
    azure_sdk.py CONNECTION write CONTAINER NAME TEXT
    azure_sdk.py CONNECTION delete CONTAINER NAME
    azure_sdk.py CONNECTION sas CONTAINER MINUTES   -> a connection string; negative: expired
"""

import hashlib
import json
import sys
from datetime import datetime, timedelta, timezone

from azure.storage.blob import (
    BlobServiceClient,
    ContainerSasPermissions,
    generate_container_sas,
)

connection, verb, container, *rest = sys.argv[1:]
service = BlobServiceClient.from_connection_string(connection)
client = service.get_container_client(container)
if verb == "create":
    client.create_container()
elif verb == "write":
    client.upload_blob(*rest)
elif verb == "delete":
    client.delete_blob(rest[0])
elif verb == "read":
    print(client.download_blob(rest[0]).readall().decode())
elif verb == "sas":
    now = datetime.now(timezone.utc)
    token = generate_container_sas(
        service.account_name,
        container,
        account_key=service.credential.account_key,
        permission=ContainerSasPermissions(read=True, write=True, create=True, list=True),
        start=now - timedelta(hours=2),
        expiry=now + timedelta(minutes=int(rest[0])),
    )
    print(f"BlobEndpoint={service.primary_endpoint};AccountName={service.account_name};"
          f"SharedAccessSignature={token}")
else:
    found = {}
    for blob in client.list_blobs():
        content = client.download_blob(blob.name).readall()
        found[blob.name] = {
            "bytes": blob.size,
            "sha256": hashlib.sha256(content).hexdigest(),
            "type": blob.content_settings.content_type,
            "json": json.loads(content) if blob.name.endswith(".json") else None,
        }
    print(json.dumps(found))
