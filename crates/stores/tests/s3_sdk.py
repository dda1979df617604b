"""What the tests need of Amazon's own client.

    s3_sdk.py ENDPOINT create BUCKET
    s3_sdk.py ENDPOINT list BUCKET     -> {"name": {"bytes", "sha256", "type", "json"}}
    s3_sdk.py ENDPOINT unfinished BUCKET     -> how many uploads in parts were begun and not ended
    s3_sdk.py ENDPOINT write BUCKET NAME TEXT
    s3_sdk.py ENDPOINT delete BUCKET NAME
"""

import hashlib
import json
import sys

import boto3

endpoint, verb, bucket, *rest = sys.argv[1:]
client = boto3.client(
    "s3", endpoint_url=endpoint, region_name="eu-west-1", aws_access_key_id="otter", aws_secret_access_key="any"
)
if verb == "create":
    client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
elif verb == "unfinished":
    print(len(client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])))
elif verb == "delete":
    client.delete_object(Bucket=bucket, Key=rest[0])
elif verb == "write":
    client.put_object(Bucket=bucket, Key=rest[0], Body=rest[1].encode())
else:
    found = {}
    for each in client.list_objects_v2(Bucket=bucket).get("Contents", []):
        kept = client.get_object(Bucket=bucket, Key=each["Key"])
        content = kept["Body"].read()
        found[each["Key"]] = {
            "bytes": each["Size"],
            "sha256": hashlib.sha256(content).hexdigest(),
            "type": kept["ContentType"],
            "json": json.loads(content) if each["Key"].endswith(".json") else None,
        }
    print(json.dumps(found))
