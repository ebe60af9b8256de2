"""What schemathesis cannot know of podd.

It sends everything that the document allows, and much that it does not. What has no end (a watch, a log that is
followed) is not asked for; requests go to a namespace that is there; and every second object that is made is a plain one,
so that there is something to read, change and delete.
"""

import zlib

import schemathesis

ENDLESS = ("watch", "follow", "sendInitialEvents")


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.query:
        case.query = {name: value for name, value in case.query.items() if name not in ENDLESS}
        # A version of the future is waited for, and the answer is 504 as Kubernetes gives it.
        if str(case.query.get("resourceVersion", "")).isdigit():
            del case.query["resourceVersion"]
    if case.path_parameters and "namespace" in case.path_parameters:
        case.path_parameters["namespace"] = "default"
    if case.method.upper() == "POST" and "{name}" not in case.operation.path:
        number = zlib.crc32(str(case.body).encode())
        if number % 2:
            case.query = {}
            case.headers = {"Content-Type": "application/json"}
            case.media_type = "application/json"
            case.body = {"metadata": {"name": f"made-by-schemathesis-{number % 1024}"}}
            if case.operation.path.endswith("/pods"):
                case.body["spec"] = {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "main", "image": "busybox:test", "command": ["sleep", "1000"]}],
                }
