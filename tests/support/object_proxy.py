"""What stands between TensorStore and an object store, and does it harm: a proxy."""

import http.client
import os
import signal
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_ERROR = "<?xml version='1.0'?><Error><Code>{0}</Code><Message>{0}</Message></Error>"
_HOP = ("connection", "transfer-encoding", "server", "date")


class Request(BaseHTTPRequestHandler):
    """A request on its way, of which a fate decides.

    Attributes:
        number: How many came before it.
    """

    protocol_version = "HTTP/1.1"
    # Head and content at once, or each answer waits for the other side's system.
    wbufsize = -1
    disable_nagle_algorithm = True

    def _met(self):
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        proxy = self.server.proxy
        with proxy.lock:
            self.number = len(proxy.seen)
            proxy.seen.append((self.command, self.path))
            fate = proxy.fate(self)
        fate(self)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _met  # noqa: N815

    def log_message(self, *arguments):
        pass

    @property
    def writes(self):
        """Whether it changes anything."""
        return self.command in ("PUT", "DELETE")

    def forwarded(self):
        """Has the object store do it; returns its answer: status, headers, content."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.proxy.port)
        connection.request(self.command, self.path, self.content, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        headers = [pair for pair in answer.getheaders() if pair[0].lower() not in _HOP]
        return answer.status, headers, content

    def reply(self, status, headers, content):
        """Answers."""
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def hang_up(self):
        """Ends the connection, with no answer or in the middle of one."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


def served(request):
    """All is well."""
    request.reply(*request.forwarded())


def refused(status, code):
    """It is answered with an error, and not done."""

    def fate(request):
        content = _ERROR.format(code).encode()
        request.reply(status, [("Content-Length", str(len(content)))], content)

    return fate


def dropped(request):
    """It is not done, and not answered."""
    request.hang_up()


def unanswered(request):
    """It is done, and not answered."""
    request.forwarded()
    request.hang_up()


def cut_short(request):
    """It is done, and half of the answer is lost."""
    status, headers, content = request.forwarded()
    request.reply(status, headers, content[: len(content) // 2])
    request.hang_up()


def late(request):
    """It is done late."""
    threading.Event().wait(0.05)
    served(request)


def kills(process):
    """It is done; whoever asked is killed before there is an answer."""

    def fate(request):
        request.forwarded()
        os.kill(process(), signal.SIGKILL)
        request.hang_up()

    return fate


class Proxy:
    """A proxy of an object store.

    Args:
        store: The object store.

    Attributes:
        fate: Is given each request, one at a time, and returns what becomes of it.
        seen: Method and path of all requests.
        endpoint: Where it is.
    """

    def __init__(self, store):
        self.port = store.port
        self.fate = lambda request: served
        self.seen = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
        self.server.daemon_threads = True
        self.server.proxy = self
        # Whoever was killed is not there to be answered.
        self.server.handle_error = lambda *arguments: None
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def standing_before(store):
    """Starts a proxy."""
    proxy = Proxy(store)
    thread = threading.Thread(target=proxy.server.serve_forever)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()
