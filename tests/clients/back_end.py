# A back end that baton asks: run it, and say url = "http://127.0.0.1:9000/" in [[hook]].
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

def decide(event):
    if event["event"] == "connect":
        user = event["headers"].get("cookie", "").removeprefix("user=")
        return {"allow": True, "user": user} if user else {"allow": False, "message": "who are you?"}
    return {"allow": "spam" not in json.dumps(event.get("data")), "message": "no spam"}

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept

    def do_POST(self):
        events = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["events"]
        body = json.dumps({"results": [{"n": e["n"], **decide(e)} for e in events]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
