"""An object store for tests: moto's server of S3, a process on this machine."""

import http.client
import itertools
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from urllib.parse import quote
from xml.etree import ElementTree

# Moto's application for S3 alone: its dispatcher looks through all services at each
# request.
SERVE = """
import sys, threading
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

class Handler(WSGIRequestHandler):
    def log(self, *arguments):
        pass

server = make_server(
    "127.0.0.1", 0, create_backend_app("s3"), threaded=True, request_handler=Handler
)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.port, flush=True)
sys.stdin.read()
"""
LISTED_AT_ONCE = 100
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
}
# Nobody checks the signature, but without one whoever asks is a stranger.
_SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/"
    "aws4_request, SignedHeaders=host, Signature=0"
}
_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class ObjectStore:
    """An object store, seen without TensorStore and without layertap.

    Args:
        port: Where it is, on this machine.
    """

    def __init__(self, port):
        self.port = port
        self.endpoint = f"http://127.0.0.1:{port}"
        self._numbers = itertools.count()
        self._own = threading.local()

    def bucket(self):
        """Makes a bucket, and returns its name."""
        name = f"bucket-{next(self._numbers)}"
        self.request("PUT", name)
        return name

    def object(self, method, bucket, key, content=None):
        """Returns what comes of a request for an object."""
        return self.request(method, f"{bucket}/{quote(key)}", content)

    def request(self, method, path, content=None):
        """Returns what comes of a request."""
        if not hasattr(self._own, "connection"):
            self._own.connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection = self._own.connection
        connection.request(method, f"/{path}", content, _SIGNED)
        answer = connection.getresponse()
        found = answer.read()
        assert answer.status < 300, (method, path, answer.status, found)
        return found

    def names(self, bucket, prefix):
        """Returns the keys of all objects that begin so, sorted."""
        found, after = [], ""
        while True:
            query = f"?list-type=2&prefix={quote(prefix)}&start-after={quote(after)}"
            listed = ElementTree.fromstring(self.request("GET", bucket + query))
            found += [key.text for key in listed.iter(f"{_NAMESPACE}Key")]
            if listed.findtext(f"{_NAMESPACE}IsTruncated") != "true":
                return sorted(found)
            after = found[-1]


@contextmanager
def serving():
    """Starts an object store, which ends with the `with` statement or this process."""
    command = [sys.executable, "-c", SERVE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    # Few names in an answer, so that it takes several to list more files.
    settings = os.environ | {"MOTO_S3_DEFAULT_MAX_KEYS": str(LISTED_AT_ONCE)}
    with subprocess.Popen(
        command, **pipes, stderr=subprocess.DEVNULL, text=True, env=settings
    ) as server:
        try:
            yield ObjectStore(int(server.stdout.readline()))
        finally:
            server.stdin.close()


def environment(store):
    """Returns the variables that lead to an object store, or to a proxy of one."""
    return {**os.environ, **ENVIRONMENT, "AWS_ENDPOINT_URL": store.endpoint}


def parts(url):
    """Returns bucket and key of a URL."""
    return re.fullmatch(r"s3://([^/]+)/(.+)", url).groups()
