"""A Hub on loopback: the endpoints that `huggingface_hub` uses to make a repository, upload to it, and read it back.

It keeps files in memory. Large files (LFS) come by the basic transfer, by one PUT each.
"""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse


class HubServer(ThreadingHTTPServer):
    """`repositories[id]` is a dict of file contents by path; `requests` is a list of "METHOD path", `messages` of the
    first lines of commits."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.private, self.blobs, self.requests = {}, {}, {}, []
        self.messages = []
        self.fails_on = None  # a part of "METHOD path" that is answered with 503
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def commit_of(self, repo_id):
        names = sorted(
            (name, hashlib.sha1(content).hexdigest()) for name, content in self.repositories[repo_id].items()
        )
        return hashlib.sha1(json.dumps(names).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self):
        path = unquote(urlparse(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        request = f"{self.command} {path}"
        self.server.requests.append(request)
        if self.server.fails_on and self.server.fails_on in request:
            return self._send(503, b"{}")
        words = path.strip("/").split("/")
        if path == "/api/repos/create":
            return self._create()
        if path == "/api/whoami-v2":
            return self._json({"name": "me", "type": "user", "orgs": []})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if words[0] == "blobs":
            self.server.blobs[words[1]] = self.body
            return self._json({})
        if words[:2] == ["api", "models"] and len(words) >= 4:
            return self._model("/".join(words[2:4]), words[4:])
        if len(words) > 3 and words[2] == "resolve":
            return self._resolve("/".join(words[:2]), "/".join(words[4:]))
        if path.endswith("/info/lfs/objects/batch"):
            return self._lfs()
        return self._send(404, b"{}")

    def _create(self):
        fields = json.loads(self.body)
        repo_id = f"{fields.get('organization') or 'me'}/{fields['name']}"
        status = 409 if repo_id in self.server.repositories else 200
        self.server.repositories.setdefault(repo_id, {})
        self.server.private.setdefault(repo_id, bool(fields.get("private") or fields.get("visibility") == "private"))
        self._json({"url": f"{self.server.endpoint}/{repo_id}", "name": repo_id, "id": repo_id}, status)

    def _model(self, repo_id, rest):
        files = self.server.repositories.get(repo_id)
        if files is None:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if rest[:1] == ["preupload"]:
            modes = []
            for file in json.loads(self.body)["files"]:
                mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
                modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None})
            return self._json({"files": modes})
        if rest[:1] == ["commit"]:
            return self._commit(repo_id, files)
        if rest[:1] == ["tree"]:
            return self._json([{"type": "file", "path": name, "size": len(files[name]), "oid": "0"} for name in files])
        commit = self.server.commit_of(repo_id)
        siblings = [{"rfilename": name} for name in files]
        return self._json({"id": repo_id, "modelId": repo_id, "sha": commit, "siblings": siblings, "private": False})

    def _commit(self, repo_id, files):
        new = {}
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                self.server.messages.append(value["summary"])
            elif operation["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                new[value["path"]] = self.server.blobs[value["oid"]]
        files |= new  # all of a commit or nothing
        commit = self.server.commit_of(repo_id)
        url = f"{self.server.endpoint}/{repo_id}/commit/{commit}"
        self._json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def _lfs(self):
        objects = []
        for blob in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.server.endpoint}/blobs/{blob['oid']}", "header": {}}
            # A blob that is there needs no upload.
            actions = {} if blob["oid"] in self.server.blobs else {"actions": {"upload": upload}}
            objects.append({**blob, **actions})
        self._json({"transfer": "basic", "objects": objects})

    def _resolve(self, repo_id, name):
        content = self.server.repositories.get(repo_id, {}).get(name)
        if content is None:
            code = "EntryNotFound" if repo_id in self.server.repositories else "RepoNotFound"
            return self._send(404, b"", {"X-Error-Code": code})
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": self.server.commit_of(repo_id)}
        self._send(200, content, headers)

    def _json(self, value, status=200):
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status, content, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
