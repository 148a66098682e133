"""Cloud Storage as Google's Python client offers it; STORAGE_EMULATOR_HOST says where.

Usage: storage.py [PART OF A FEATURE'S NAME]
"""

import base64
import datetime
import gzip
import hashlib
import io
import os
import sys
import tempfile

import google_crc32c
import requests
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage import transfer_manager

from features import equal, feature, refuses, run, unique

ORIGIN = os.environ["STORAGE_EMULATOR_HOST"]
QUARTER = 256 * 1024


class Context:
    """A client, and a bucket that one feature alone uses."""

    def __init__(self):
        self.client = storage.Client(
            project="conformance",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": ORIGIN},
        )

    def bucket(self, **properties):
        bucket = self.client.bucket(unique("b"))
        for name, value in properties.items():
            setattr(bucket, name, value)
        bucket.create()
        return bucket

    def blob(self, content=b"content", bucket=None, name="folder/object.txt"):
        blob = (bucket or self.bucket()).blob(name)
        blob.upload_from_string(content)
        return blob

    def names(self, bucket, **query):
        return [blob.name for blob in self.client.list_blobs(bucket, **query)]


def again(bucket):
    """What the server says of a bucket."""
    return bucket.client.get_bucket(bucket.name)


def fill(s, *names):
    bucket = s.bucket()
    for name in names:
        s.blob(name.encode(), bucket, name)
    return bucket


def md5(content):
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def crc32c(content):
    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


# Buckets.


@feature("bucket: create, get, exists")
def bucket_create(s):
    bucket = s.bucket()
    equal(s.client.get_bucket(bucket.name).name, bucket.name)
    equal(bucket.exists(), True)
    equal(s.client.bucket(unique("none")).exists(), False)


@feature("bucket: create twice is refused")
def bucket_twice(s):
    bucket = s.bucket()
    refuses(exceptions.Conflict, bucket.create)


@feature("bucket: location and storage class")
def bucket_location(s):
    bucket = s.client.bucket(unique("b"))
    bucket.storage_class = "NEARLINE"
    bucket.create(location="europe-west1")
    found = again(bucket)
    equal((found.location, found.storage_class), ("EUROPE-WEST1", "NEARLINE"))
    equal(found.location_type, "region")


@feature("bucket: list with a prefix, in pages")
def bucket_list(s):
    prefix = unique("list")
    names = [f"{prefix}-{n}" for n in range(3)]
    for name in names:
        s.client.create_bucket(name)
    pages = list(s.client.list_buckets(prefix=prefix, page_size=2).pages)
    equal([page.num_items for page in pages], [2, 1])
    equal([b.name for b in s.client.list_buckets(prefix=prefix)], names)


@feature("bucket: delete; a full one is refused")
def bucket_delete(s):
    bucket = s.bucket()
    blob = s.blob(bucket=bucket)
    refuses(exceptions.Conflict, bucket.delete)
    blob.delete()
    bucket.delete()
    equal(bucket.exists(), False)


@feature("bucket: delete with everything in it")
def bucket_force(s):
    bucket = fill(s, "a", "b")
    bucket.delete(force=True)
    equal(bucket.exists(), False)


@feature("bucket: labels by patch")
def bucket_labels(s):
    bucket = s.bucket(labels={"a": "1", "b": "2"})
    bucket.labels = {"b": "3", "c": "4"}
    bucket.patch()
    equal(again(bucket).labels, {"b": "3", "c": "4"})


@feature("bucket: versioning by patch")
def bucket_versioning(s):
    bucket = s.bucket()
    bucket.versioning_enabled = True
    bucket.patch()
    equal(again(bucket).versioning_enabled, True)
    bucket.versioning_enabled = False
    bucket.patch()
    equal(again(bucket).versioning_enabled, False)


@feature("bucket: lifecycle rules")
def bucket_lifecycle(s):
    bucket = s.bucket()
    bucket.add_lifecycle_delete_rule(age=30, matches_prefix=["tmp/"])
    bucket.add_lifecycle_set_storage_class_rule("COLDLINE", age=10, is_live=False)
    bucket.patch()
    rules = list(again(bucket).lifecycle_rules)
    equal([rule["action"]["type"] for rule in rules], ["Delete", "SetStorageClass"])
    equal(rules[0]["condition"], {"age": 30, "matchesPrefix": ["tmp/"]})
    equal(rules[1]["action"]["storageClass"], "COLDLINE")


@feature("bucket: lifecycle cleared")
def bucket_lifecycle_cleared(s):
    bucket = s.bucket()
    bucket.add_lifecycle_delete_rule(age=30)
    bucket.patch()
    bucket.clear_lifecycle_rules()
    bucket.patch()
    equal(list(again(bucket).lifecycle_rules), [])


@feature("bucket: CORS")
def bucket_cors(s):
    bucket = s.bucket()
    rule = {"origin": ["https://example.com"], "method": ["GET"], "maxAgeSeconds": 60}
    bucket.cors = [rule]
    bucket.patch()
    equal(again(bucket).cors, [rule])


@feature("bucket: website")
def bucket_website(s):
    bucket = s.bucket()
    bucket.configure_website("index.html", "404.html")
    bucket.patch()
    equal(again(bucket)._properties["website"]["mainPageSuffix"], "index.html")


@feature("bucket: uniform access and public access prevention")
def bucket_iam_configuration(s):
    bucket = s.bucket()
    bucket.iam_configuration.uniform_bucket_level_access_enabled = True
    bucket.iam_configuration.public_access_prevention = "enforced"
    bucket.patch()
    found = again(bucket).iam_configuration
    equal(found.uniform_bucket_level_access_enabled, True)
    equal(found.public_access_prevention, "enforced")


@feature("bucket: default storage class by patch")
def bucket_class(s):
    bucket = s.bucket()
    bucket.storage_class = "COLDLINE"
    bucket.patch()
    equal(s.blob(bucket=bucket).storage_class, "COLDLINE")


@feature("bucket: requester pays and logging are kept")
def bucket_kept(s):
    bucket = s.bucket()
    bucket.requester_pays = True
    bucket.enable_logging("logs", "prefix")
    bucket.patch()
    found = again(bucket)
    equal((found.requester_pays, found.get_logging()["logBucket"]), (True, "logs"))


@feature("bucket: update in full")
def bucket_update(s):
    bucket = s.bucket(labels={"a": "1"})
    bucket.labels = {"b": "2"}
    bucket.update()
    equal(again(bucket).labels, {"b": "2"})


@feature("bucket: metageneration preconditions")
def bucket_precondition(s):
    bucket = s.bucket()
    bucket.labels = {"a": "1"}
    refuses(
        exceptions.PreconditionFailed, lambda: bucket.patch(if_metageneration_match=99)
    )
    bucket.patch(if_metageneration_match=bucket.metageneration)
    equal(again(bucket).metageneration, 2)


@feature("bucket: IAM policy set and got")
def bucket_policy(s):
    bucket = s.bucket()
    policy = bucket.get_iam_policy(requested_policy_version=3)
    binding = {"role": "roles/storage.objectViewer", "members": {"user:ann@example.com"}}
    policy.bindings.append(binding)
    bucket.set_iam_policy(policy)
    found = [b["role"] for b in bucket.get_iam_policy(requested_policy_version=3).bindings]
    equal("roles/storage.objectViewer" in found, True)


@feature("bucket: IAM permissions tested")
def bucket_permissions(s):
    bucket = s.bucket()
    equal(bucket.test_iam_permissions(["storage.objects.get"]), ["storage.objects.get"])


@feature("bucket: soft-delete policy")
def bucket_soft_delete(s):
    bucket = s.bucket()
    bucket.soft_delete_policy.retention_duration_seconds = 0
    bucket.patch()
    equal(again(bucket).soft_delete_policy.retention_duration_seconds, 0)


@feature("bucket: retention policy")
def bucket_retention(s):
    bucket = s.bucket()
    bucket.retention_period = 60
    bucket.patch()
    equal(again(bucket).retention_period, 60)
    blob = s.blob(bucket=bucket)
    refuses(exceptions.Forbidden, blob.delete)


@feature("bucket: notifications")
def bucket_notifications(s):
    bucket = s.bucket()
    topic = bucket.notification("jobs", topic_project="conformance")
    topic.create()
    equal(len(list(bucket.list_notifications())), 1)
    topic.delete()


# Uploads.


@feature("upload: from a string")
def upload_string(s):
    blob = s.blob("héllo")
    equal(blob.size, 6)
    equal(blob.download_as_text(), "héllo")


@feature("upload: content type")
def upload_type(s):
    blob = s.bucket().blob("o")
    blob.upload_from_string("{}", content_type="application/json")
    equal(blob.bucket.get_blob("o").content_type, "application/json")


@feature("upload: from a file object")
def upload_file(s):
    blob = s.bucket().blob("o")
    blob.upload_from_file(io.BytesIO(b"abc"), rewind=True)
    equal(blob.download_as_bytes(), b"abc")


@feature("upload: from a file name")
def upload_filename(s):
    blob = s.bucket().blob("o")
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write(b"abc")
        file.flush()
        blob.upload_from_filename(file.name)
    equal((blob.content_type, blob.download_as_bytes()), ("text/plain", b"abc"))


@feature("upload: resumable, in chunks")
def upload_resumable(s):
    content = os.urandom(3 * QUARTER + 17)
    blob = s.bucket().blob("o", chunk_size=QUARTER)
    blob.upload_from_string(content)
    equal(blob.download_as_bytes(), content)


@feature("upload: resumable, of unknown size")
def upload_unknown(s):
    content = os.urandom(2 * QUARTER)

    class Pipe(io.RawIOBase):
        left = io.BytesIO(content)

        def readable(self):
            return True

        def read(self, size=-1):
            return self.left.read(size)

        def tell(self):
            return self.left.tell()

    blob = s.bucket().blob("o", chunk_size=QUARTER)
    blob.upload_from_file(Pipe())
    equal(blob.download_as_bytes(), content)


@feature("upload: over 8 MiB in one session")
def upload_large(s):
    content = os.urandom(9 << 20)
    blob = s.blob(content)
    equal(blob.size, len(content))
    equal(hashlib.md5(blob.download_as_bytes()).digest(), hashlib.md5(content).digest())


@feature("upload: a session URL made for somebody else")
def upload_session(s):
    blob = s.bucket().blob("o")
    url = blob.create_resumable_upload_session(content_type="text/plain", size=3)
    answer = requests.put(url, data=b"abc", timeout=20)
    equal(answer.status_code, 200)
    equal(blob.download_as_bytes(), b"abc")


@feature("upload: MD5 and CRC32C are told")
def upload_hashes(s):
    blob = s.blob(b"abc")
    found = blob.bucket.get_blob(blob.name)
    equal((found.md5_hash, found.crc32c), (md5(b"abc"), crc32c(b"abc")))


@feature("upload: checksum md5, and a wrong one is refused")
def upload_md5(s):
    blob = s.bucket().blob("o")
    blob.upload_from_string(b"abc", checksum="md5")
    blob.md5_hash = md5(b"other")
    refuses(exceptions.BadRequest, lambda: blob.upload_from_string(b"abc"))


@feature("upload: checksum crc32c, and a wrong one is refused")
def upload_crc32c(s):
    blob = s.bucket().blob("o")
    blob.upload_from_string(b"abc", checksum="crc32c")
    blob.crc32c = crc32c(b"other")
    refuses(exceptions.BadRequest, lambda: blob.upload_from_string(b"abc", checksum=None))


@feature("upload: metadata, custom time, disposition and cache control")
def upload_metadata(s):
    blob = s.bucket().blob("o")
    when = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    blob.metadata = {"a": "1"}
    blob.custom_time = when
    blob.content_disposition = "attachment"
    blob.cache_control = "no-store"
    blob.upload_from_string(b"abc")
    found = blob.bucket.get_blob("o")
    equal((found.metadata, found.custom_time), ({"a": "1"}, when))
    equal((found.content_disposition, found.cache_control), ("attachment", "no-store"))


@feature("upload: storage class")
def upload_class(s):
    blob = s.bucket().blob("o")
    blob.storage_class = "NEARLINE"
    blob.upload_from_string(b"abc")
    equal(blob.bucket.get_blob("o").storage_class, "NEARLINE")


@feature("upload: names with spaces, slashes, percents and more")
def upload_names(s):
    names = ["a b", "a/b/c", "50%", "é ü", "q?x=1&y#z", "a+b", "tail/"]
    bucket = fill(s, *names)
    equal(s.names(bucket), sorted(names, key=str.encode))
    for name in names:
        equal(bucket.blob(name).download_as_bytes(), name.encode())


@feature("upload: open for writing")
def upload_open(s):
    blob = s.bucket().blob("o")
    with blob.open("wb", chunk_size=QUARTER) as file:
        file.write(b"x" * QUARTER)
        file.write(b"y")
    equal(blob.download_as_bytes(), b"x" * QUARTER + b"y")


@feature("upload: only if it does not exist")
def upload_new(s):
    blob = s.bucket().blob("o")
    blob.upload_from_string(b"abc", if_generation_match=0)
    refuses(
        exceptions.PreconditionFailed,
        lambda: blob.upload_from_string(b"x", if_generation_match=0),
    )


@feature("upload: only over a generation, in a session too")
def upload_generation(s):
    blob = s.blob()
    blob.chunk_size = QUARTER
    blob.upload_from_string(b"x" * 2 * QUARTER, if_generation_match=blob.generation)
    refuses(
        exceptions.PreconditionFailed,
        lambda: blob.upload_from_string(b"y" * 2 * QUARTER, if_generation_match=1),
    )


# Downloads.


@feature("download: bytes, text, to a file")
def download_all(s):
    blob = s.blob(b"content")
    equal(blob.download_as_bytes(), b"content")
    equal(blob.download_as_text(), "content")
    with tempfile.NamedTemporaryFile() as file:
        blob.download_to_filename(file.name)
        equal(file.read(), b"content")


@feature("download: a range")
def download_range(s):
    blob = s.blob(b"0123456789")
    equal(blob.download_as_bytes(start=2, end=4), b"234")
    equal(blob.download_as_bytes(start=7), b"789")


@feature("download: a range from the end")
def download_suffix(s):
    blob = s.blob(b"0123456789")
    equal(blob.download_as_bytes(start=-3), b"789")


@feature("download: a range beyond the end is refused")
def download_beyond(s):
    blob = s.blob(b"0123456789")
    refuses(
        exceptions.RequestRangeNotSatisfiable, lambda: blob.download_as_bytes(start=20, end=30)
    )


@feature("download: in chunks")
def download_chunks(s):
    content = os.urandom(2 * QUARTER + 5)
    blob = s.blob(content)
    blob.chunk_size = QUARTER
    equal(blob.download_as_bytes(), content)


@feature("download: gzip decoded, and raw")
def download_gzip(s):
    blob = s.bucket().blob("o")
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(b"content"))
    equal(blob.download_as_bytes(), b"content")
    equal(gzip.decompress(blob.download_as_bytes(raw_download=True)), b"content")


@feature("download: checksums verified")
def download_verified(s):
    blob = s.blob(b"content")
    equal(blob.download_as_bytes(checksum="md5"), b"content")
    equal(blob.download_as_bytes(checksum="crc32c"), b"content")


@feature("download: hashes in x-goog-hash, generation in headers")
def download_headers(s):
    blob = s.blob(b"content")
    answer = requests.get(blob.media_link, timeout=20)
    hashes = answer.headers["x-goog-hash"]
    equal("crc32c=" + crc32c(b"content") in hashes, True)
    equal("md5=" + md5(b"content") in hashes, True)
    equal(answer.headers["x-goog-generation"], str(blob.generation))


@feature("download: open for reading, and seek")
def download_open(s):
    blob = s.blob(b"0123456789")
    with blob.open("rb", chunk_size=QUARTER) as file:
        file.seek(4)
        equal(file.read(3), b"456")


@feature("download: only if a generation matches")
def download_generation(s):
    blob = s.blob()
    blob.download_as_bytes(if_generation_match=blob.generation)
    refuses(
        exceptions.PreconditionFailed, lambda: blob.download_as_bytes(if_generation_match=1)
    )


@feature("download: not modified")
def download_not_modified(s):
    blob = s.blob()
    refuses(
        exceptions.NotModified,
        lambda: blob.reload(if_generation_not_match=blob.generation),
    )


@feature("download: by ETag")
def download_etag(s):
    blob = s.blob()
    blob.download_as_bytes(if_etag_match=blob.etag)
    refuses(
        exceptions.NotModified, lambda: blob.download_as_bytes(if_etag_not_match=blob.etag)
    )


@feature("download: a missing object is refused")
def download_missing(s):
    blob = s.bucket().blob("none")
    refuses(exceptions.NotFound, blob.download_as_bytes)
    equal(blob.exists(), False)
    equal(blob.bucket.get_blob("none"), None)


# Metadata.


@feature("object: custom metadata by patch")
def object_metadata(s):
    blob = s.blob()
    blob.metadata = {"a": "1", "b": "2"}
    blob.patch()
    blob.metadata = {"b": "3", "a": None}
    blob.patch()
    found = blob.bucket.get_blob(blob.name)
    equal((found.metadata, found.metageneration), ({"b": "3"}, 3))


@feature("object: fields by patch")
def object_fields(s):
    blob = s.blob()
    blob.content_type = "text/html"
    blob.cache_control = "no-store"
    blob.content_language = "en"
    blob.custom_time = datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc)
    blob.patch()
    found = blob.bucket.get_blob(blob.name)
    equal((found.content_type, found.cache_control), ("text/html", "no-store"))
    equal((found.content_language, found.custom_time.year), ("en", 2030))


@feature("object: update in full")
def object_update(s):
    blob = s.blob()
    blob.metadata = {"a": "1"}
    blob.update()
    equal(blob.bucket.get_blob(blob.name).metadata, {"a": "1"})


@feature("object: metageneration preconditions")
def object_precondition(s):
    blob = s.blob()
    blob.metadata = {"a": "1"}
    refuses(exceptions.PreconditionFailed, lambda: blob.patch(if_metageneration_match=9))
    blob.patch(if_metageneration_match=1, if_generation_match=blob.generation)
    refuses(
        exceptions.PreconditionFailed,
        lambda: blob.download_as_bytes(if_metageneration_match=1),
    )


@feature("object: storage class updated")
def object_class(s):
    blob = s.blob()
    blob.update_storage_class("NEARLINE")
    equal(blob.bucket.get_blob(blob.name).storage_class, "NEARLINE")


@feature("object: delete, a missing one is refused")
def object_delete(s):
    blob = s.blob()
    blob.delete()
    refuses(exceptions.NotFound, blob.delete)


@feature("object: delete only a generation")
def object_delete_generation(s):
    blob = s.blob()
    refuses(exceptions.PreconditionFailed, lambda: blob.delete(if_generation_match=1))
    blob.delete(if_generation_match=blob.generation)
    equal(blob.exists(), False)


@feature("object: temporary hold")
def object_hold(s):
    blob = s.blob()
    blob.temporary_hold = True
    blob.patch()
    refuses(exceptions.Forbidden, blob.delete)
    blob.temporary_hold = False
    blob.patch()
    blob.delete()


@feature("object: only some fields")
def object_some_fields(s):
    bucket = fill(s, "a", "b")
    found = list(s.client.list_blobs(bucket, fields="items(name,size),nextPageToken"))
    equal([(b.name, b.size, b.generation) for b in found], [("a", 1, None), ("b", 1, None)])


@feature("object: ACL and make public")
def object_acl(s):
    blob = s.blob()
    blob.make_public()
    blob.acl.reload()
    equal("READER" in blob.acl.all().get_roles(), True)


@feature("object: customer-supplied key")
def object_key(s):
    blob = s.bucket().blob("o", encryption_key=b"k" * 32)
    blob.upload_from_string(b"secret")
    equal(blob.download_as_bytes(), b"secret")
    bare = blob.bucket.blob("o")
    refuses(exceptions.BadRequest, bare.download_as_bytes)


# Listing.


@feature("list: a prefix and a delimiter")
def list_delimiter(s):
    bucket = fill(s, "a/1", "a/2", "b/1", "c")
    found = s.client.list_blobs(bucket, delimiter="/")
    equal([b.name for b in found], ["c"])
    equal(found.prefixes, {"a/", "b/"})
    equal(s.names(bucket, prefix="a/"), ["a/1", "a/2"])


@feature("list: pages and a limit")
def list_pages(s):
    bucket = fill(s, "a", "b", "c", "d", "e")
    pages = s.client.list_blobs(bucket, page_size=2).pages
    equal([[b.name for b in page] for page in pages], [["a", "b"], ["c", "d"], ["e"]])
    equal(s.names(bucket, max_results=3), ["a", "b", "c"])


@feature("list: start and end offset")
def list_offsets(s):
    bucket = fill(s, "a", "b", "c", "d")
    equal(s.names(bucket, start_offset="b", end_offset="d"), ["b", "c"])


@feature("list: matchGlob")
def list_glob(s):
    bucket = fill(s, "a.txt", "b.txt", "dir/c.txt", "dir/d.jpg", "dir/sub/e.txt")
    equal(s.names(bucket, match_glob="*.txt"), ["a.txt", "b.txt"])
    equal(s.names(bucket, match_glob="dir/**.txt"), ["dir/c.txt", "dir/sub/e.txt"])
    equal(s.names(bucket, match_glob="dir/[cd].{txt,jpg}"), ["dir/c.txt", "dir/d.jpg"])


@feature("list: include the trailing delimiter")
def list_trailing(s):
    bucket = fill(s, "a/", "a/1", "b")
    found = s.client.list_blobs(bucket, delimiter="/", include_trailing_delimiter=True)
    equal(sorted(b.name for b in found), ["a/", "b"])
    equal(found.prefixes, {"a/"})


@feature("list: a missing bucket is refused")
def list_missing(s):
    refuses(exceptions.NotFound, lambda: s.names(unique("none")))


# Versions.


@feature("versions: kept, listed and read")
def versions_read(s):
    bucket = s.bucket(versioning_enabled=True)
    first = s.blob(b"one", bucket, "o").generation
    s.blob(b"two", bucket, "o")
    found = list(s.client.list_blobs(bucket, versions=True))
    equal(len(found), 2)
    equal(bucket.blob("o", generation=first).download_as_bytes(), b"one")
    equal(bucket.blob("o").download_as_bytes(), b"two")


@feature("versions: a deleted one stays, and comes back by copy")
def versions_restore(s):
    bucket = s.bucket(versioning_enabled=True)
    blob = s.blob(b"one", bucket, "o")
    generation = blob.generation
    bucket.delete_blob("o")
    equal(bucket.blob("o").exists(), False)
    bucket.copy_blob(bucket.blob("o"), bucket, source_generation=generation)
    equal(bucket.blob("o").download_as_bytes(), b"one")


@feature("versions: one deleted for good")
def versions_delete(s):
    bucket = s.bucket(versioning_enabled=True)
    first = s.blob(b"one", bucket, "o").generation
    s.blob(b"two", bucket, "o")
    bucket.delete_blob("o", generation=first)
    equal(len(list(s.client.list_blobs(bucket, versions=True))), 1)


@feature("versions: soft-deleted objects listed and restored")
def versions_soft(s):
    bucket = s.bucket()
    blob = s.blob(b"one", bucket, "o")
    generation = blob.generation
    blob.delete()
    equal(len(list(s.client.list_blobs(bucket, soft_deleted=True))), 1)
    bucket.restore_blob("o", generation=generation)
    equal(bucket.blob("o").download_as_bytes(), b"one")


# Copies.


@feature("copy: into another bucket")
def copy_bucket(s):
    blob, target = s.blob(b"abc"), s.bucket()
    copy = blob.bucket.copy_blob(blob, target, "copy")
    equal(copy.download_as_bytes(), b"abc")
    equal(copy.content_type, blob.content_type)


@feature("copy: only under preconditions of both")
def copy_precondition(s):
    blob = s.blob(b"abc")
    bucket = blob.bucket
    bucket.copy_blob(blob, bucket, "copy", if_generation_match=0)
    refuses(
        exceptions.PreconditionFailed,
        lambda: bucket.copy_blob(blob, bucket, "copy", if_generation_match=0),
    )
    refuses(
        exceptions.PreconditionFailed,
        lambda: bucket.copy_blob(blob, bucket, "new", if_source_generation_match=1),
    )


@feature("rewrite: with tokens")
def copy_rewrite(s):
    content = os.urandom((2 << 20) + 1)
    source = s.blob(content)
    target = s.bucket(storage_class="NEARLINE").blob("copy")
    query = {"maxBytesRewrittenPerCall": 1 << 20}
    token, calls = None, 0
    path = f"{source.path}/rewriteTo{target.path}"
    while calls == 0 or token:
        if token:
            query["rewriteToken"] = token
        answer = s.client._post_resource(path, {}, query_params=query)
        token, calls = answer.get("rewriteToken"), calls + 1
    equal((calls, answer["done"]), (3, True))
    equal(target.rewrite(source)[1:], (len(content), len(content)))
    equal(target.download_as_bytes(), content)


@feature("rewrite: new metadata")
def copy_metadata(s):
    source = s.blob(b"abc")
    target = source.bucket.blob("copy")
    target.metadata = {"a": "1"}
    target.content_type = "text/html"
    target.rewrite(source)
    found = source.bucket.get_blob("copy")
    equal((found.metadata, found.content_type), ({"a": "1"}, "text/html"))


@feature("rename")
def copy_rename(s):
    blob = s.blob(b"abc")
    blob.bucket.rename_blob(blob, "new")
    equal(s.names(blob.bucket), ["new"])


@feature("compose")
def compose(s):
    bucket = fill(s, "a", "b", "c")
    whole = bucket.blob("whole")
    whole.content_type = "text/plain"
    whole.compose([bucket.blob(name) for name in "abc"])
    equal(whole.download_as_bytes(), b"abc")
    found = bucket.get_blob("whole")
    equal((found.component_count, found.md5_hash), (3, None))
    equal(found.crc32c, crc32c(b"abc"))


@feature("compose: only under preconditions")
def compose_precondition(s):
    bucket = fill(s, "a", "b")
    sources = [bucket.blob("a"), bucket.blob("b")]
    whole = bucket.blob("whole")
    refuses(
        exceptions.PreconditionFailed,
        lambda: whole.compose(sources, if_source_generation_match=[1, None]),
    )
    whole.compose(sources, if_generation_match=0)
    refuses(
        exceptions.PreconditionFailed, lambda: whole.compose(sources, if_generation_match=0)
    )


@feature("compose: a missing source is refused")
def compose_missing(s):
    bucket = fill(s, "a")
    sources = [bucket.blob("a"), bucket.blob("none")]
    refuses(exceptions.NotFound, lambda: bucket.blob("whole").compose(sources))


# Many at once.


@feature("batch: deletes")
def batch_delete(s):
    bucket = fill(s, "a", "b", "c")
    with s.client.batch():
        for name in "ab":
            bucket.blob(name).delete()
    equal(s.names(bucket), ["c"])


@feature("batch: patches, one of them refused")
def batch_patch(s):
    bucket = fill(s, "a")

    def patch():
        with s.client.batch():
            for name in ("a", "none"):
                blob = bucket.blob(name)
                blob.metadata = {"a": "1"}
                blob.patch()

    refuses(exceptions.NotFound, patch)
    equal(bucket.get_blob("a").metadata, {"a": "1"})


@feature("batch: delete_blobs of a bucket")
def batch_blobs(s):
    bucket = fill(s, "a", "b", "c")
    bucket.delete_blobs(["a", "none"], on_error=lambda blob: None)
    equal(s.names(bucket), ["b", "c"])


@feature("transfer manager: many up and down")
def transfer_many(s):
    bucket = s.bucket()
    pairs = [(io.BytesIO(str(n).encode()), bucket.blob(str(n))) for n in range(5)]
    transfer_manager.upload_many(pairs, worker_type="thread", raise_exception=True)
    equal(s.names(bucket), list("01234"))


@feature("transfer manager: one object down in parallel")
def transfer_down(s):
    content = os.urandom(3 * QUARTER)
    blob = s.blob(content)
    with tempfile.NamedTemporaryFile() as file:
        transfer_manager.download_chunks_concurrently(
            blob, file.name, chunk_size=QUARTER, worker_type="thread"
        )
        equal(file.read(), content)


@feature("transfer manager: one object up in parallel (XML multipart)")
def transfer_up(s):
    content = os.urandom((10 << 20) + 5)
    blob = s.bucket().blob("o")
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        transfer_manager.upload_chunks_concurrently(
            file.name, blob, chunk_size=5 << 20, worker_type="thread"
        )
    equal(blob.download_as_bytes(), content)


# XML, and what is beside the objects.


@feature("XML: get, head and ranges by the public URL")
def xml_get(s):
    blob = s.blob(b"0123456789", name="dir/o.txt")
    url = f"{ORIGIN}/{blob.bucket.name}/dir/o.txt"
    answer = requests.get(url, timeout=20)
    equal((answer.status_code, answer.content), (200, b"0123456789"))
    equal(requests.head(url, timeout=20).headers["Content-Length"], "10")
    part = requests.get(url, headers={"Range": "bytes=2-4"}, timeout=20)
    equal((part.status_code, part.content), (206, b"234"))
    missing = requests.get(f"{ORIGIN}/{blob.bucket.name}/none", timeout=20)
    equal((missing.status_code, b"NoSuchKey" in missing.content), (404, True))


@feature("XML: put, with a precondition, and delete")
def xml_put(s):
    bucket = s.bucket()
    url = f"{ORIGIN}/{bucket.name}/o"
    headers = {"x-goog-if-generation-match": "0", "x-goog-meta-a": "1"}
    equal(requests.put(url, data=b"abc", headers=headers, timeout=20).status_code, 200)
    equal(requests.put(url, data=b"abc", headers=headers, timeout=20).status_code, 412)
    found = bucket.get_blob("o")
    equal((found.metadata, found.size), ({"a": "1"}, 3))
    equal(requests.delete(url, timeout=20).status_code, 204)
    equal(bucket.blob("o").exists(), False)


@feature("XML: list a bucket")
def xml_list(s):
    bucket = fill(s, "a/1", "b")
    url = f"{ORIGIN}/{bucket.name}?list-type=2&delimiter=/"
    answer = requests.get(url, timeout=20)
    equal(answer.status_code, 200)
    equal((b"<Key>b</Key>" in answer.content, b"<Prefix>a/</Prefix>" in answer.content), (True, True))


@feature("HMAC keys")
def hmac_keys(s):
    key, secret = s.client.create_hmac_key("robot@example.com")
    equal((bool(key.access_id), bool(secret)), (True, True))


@feature("service account of the project")
def service_account(s):
    equal("@" in s.client.get_service_account_email(), True)


if __name__ == "__main__":
    run(Context, sys.argv[1] if len(sys.argv) > 1 else "")
    os._exit(0)  # Features that hang are left behind.
