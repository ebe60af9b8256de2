// A pod's life through openapi-fetch and the types that openapi-typescript makes of podd's document.
//
// Arguments: the agent's kubeconfig, the image of the pod.

import { strict as assert } from "node:assert";
import { readFileSync } from "node:fs";
import createClient from "openapi-fetch";
import { Agent, fetch as undici } from "undici";
import type { components, paths } from "./podd.js";

type Pod = components["schemas"]["io.k8s.api.core.v1.Pod"];
type PodEvent = { type: string; object: Pod };

const [kubeconfig, image] = process.argv.slice(2) as [string, string];
const name = "made-by-typescript";
const pods = "/api/v1/namespaces/{namespace}/pods";
const pod = "/api/v1/namespaces/{namespace}/pods/{name}";
const namespace = "default";

// podd writes each value of a kubeconfig on a line of its own.
function value(field: string): string {
  const line = readFileSync(kubeconfig, "utf8").split("\n").find((line) => line.trim().startsWith(`${field}:`));
  assert(line, `${field} is in the kubeconfig`);
  return line.slice(line.indexOf(":") + 1).trim().replace(/^"|"$/g, "");
}
const pem = (field: string) => Buffer.from(value(field), "base64").toString();

const dispatcher = new Agent({
  connect: {
    ca: pem("certificate-authority-data"),
    cert: pem("client-certificate-data"),
    key: pem("client-key-data"),
  },
  bodyTimeout: 60_000,
});
const { GET, POST, PATCH, DELETE } = createClient<paths>({
  baseUrl: value("server"),
  fetch: async (request: Request) => {
    const body = request.body === null ? undefined : await request.text();
    const answer = await undici(request.url, {
      method: request.method,
      headers: [...request.headers],
      body,
      dispatcher,
    });
    return answer as unknown as Response;
  },
});

// Events after a version of the pod, until one is as asked.
async function watch(after: Pod, wanted: (event: PodEvent) => boolean): Promise<void> {
  const { data, response } = await GET(pods, {
    params: {
      path: { namespace },
      query: {
        watch: true,
        fieldSelector: `metadata.name=${name}`,
        resourceVersion: after.metadata?.resourceVersion,
      },
    },
    parseAs: "stream",
  });
  assert.equal(response.status, 200);
  assert(data);
  let text = "";
  const decoder = new TextDecoder();
  for await (const piece of data as unknown as AsyncIterable<Uint8Array>) {
    text += decoder.decode(piece, { stream: true });
    const lines = text.split("\n");
    text = lines.pop() ?? "";
    if (lines.some((line) => wanted(JSON.parse(line) as PodEvent))) {
      return;
    }
  }
  assert.fail("the watch ended");
}

const made = await POST(pods, {
  params: { path: { namespace }, query: { fieldValidation: "Strict" } },
  body: {
    metadata: { name },
    spec: {
      terminationGracePeriodSeconds: 1,
      containers: [{ name: "main", image, command: ["/bin/sh", "-c", "echo hello from typescript; exec sleep 1000"] }],
    },
  },
});
assert(made.data, JSON.stringify(made.error));
assert.equal(made.response.status, 201);

await watch(made.data, (event) => event.object.status?.phase === "Running");

const log = await GET("/api/v1/namespaces/{namespace}/pods/{name}/log", {
  params: { path: { namespace, name }, query: { follow: true, limitBytes: 21 } },
  parseAs: "text",
});
assert.equal(log.data, "hello from typescript");

const patched = await PATCH(pod, {
  params: { path: { namespace, name } },
  body: { metadata: { labels: { patched: "yes" } } },
  headers: { "Content-Type": "application/merge-patch+json" },
});
assert(patched.data, JSON.stringify(patched.error));
const listed = await GET(pods, { params: { path: { namespace }, query: { labelSelector: "patched=yes" } } });
assert.deepEqual(listed.data?.items.map((item) => item.metadata?.name), [name]);

const deleted = await DELETE(pod, { params: { path: { namespace, name } } });
assert(deleted.data, JSON.stringify(deleted.error));
await watch(deleted.data as Pod, (event) => event.type === "DELETED");
const gone = await GET(pod, { params: { path: { namespace, name } } });
assert.equal(gone.response.status, 404);
assert.equal(gone.error?.reason, "NotFound");
console.log("done");
await dispatcher.close();
