import json
import os

from google.cloud import pubsub_v1

publisher = pubsub_v1.PublisherClient(
    publisher_options=pubsub_v1.types.PublisherOptions(enable_message_ordering=True)
)
topic = publisher.topic_path(os.environ["GOOGLE_CLOUD_PROJECT"], "jobs")
job = {"user": "user-1", "kind": "profile"}
publisher.publish(topic, json.dumps(job).encode(), ordering_key=job["user"]).result()
