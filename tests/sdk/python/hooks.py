"""What schemathesis cannot know of podd.

It sends everything that the document allows, and much that it does not. What has no end (a watch, a log that is
followed) is not asked for, and half of the objects are brought to where they are looked for: a namespace that is there, a
name that may be a name, a pod that may run.
"""

import schemathesis

ENDLESS = ("watch", "follow", "sendInitialEvents")


@schemathesis.hook
def map_query(context, query):
    return {name: value for name, value in (query or {}).items() if name not in ENDLESS} or None


@schemathesis.hook
def map_path_parameters(context, parameters):
    if parameters and "namespace" in parameters:
        parameters["namespace"] = "default"
    return parameters


@schemathesis.hook
def map_body(context, body):
    """Every second pod is one that podd takes, so that there is something to read, change and delete."""
    operation = context.operation
    if operation.method == "post" and operation.path.endswith("/pods") and isinstance(body, dict) and len(str(body)) % 2:
        name = "made-by-schemathesis-" + format(hash(str(body)) % 4096, "x")
        return {
            "metadata": {"name": name},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": "busybox:test", "command": ["sleep", "1000"]}],
            },
        }
    return body
