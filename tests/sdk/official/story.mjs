// @kubernetes/client-node leads a pod through its life: kubeconfig, image, on the command line.
import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { CoreV1Api, Exec, KubeConfig, Log, Watch } from "@kubernetes/client-node";

const [kubeconfig, image] = process.argv.slice(2);
const config = new KubeConfig();
config.loadFromFile(kubeconfig);
const core = config.makeApiClient(CoreV1Api);
const namespace = "default";

await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: "js" }, data: { color: "blue" } } });
await core.patchNamespacedConfigMap({
  name: "js", namespace, body: [{ op: "replace", path: "/data/color", value: "green" }],
});
assert.equal((await core.readNamespacedConfigMap({ name: "js", namespace })).data.color, "green");

const pods = `/api/v1/namespaces/${namespace}/pods`;
const mine = { fieldSelector: "metadata.name=js" };

await core.createNamespacedPod({
  namespace,
  body: {
    metadata: { name: "js", labels: { app: "js" } },
    spec: {
      terminationGracePeriodSeconds: 1,
      containers: [{ name: "main", image, imagePullPolicy: "Never", command: ["sh", "-c", "echo hello; sleep 100000"] }],
    },
  },
});
const ready = (pod) => pod.status?.conditions?.some((c) => c.type === "Ready" && c.status === "True");
for (;;) {
  if (ready(await core.readNamespacedPod({ name: "js", namespace }))) break;
}
// It is ready a moment before it has said anything.
assert.equal(await core.readNamespacedPodLog({ name: "js", namespace, follow: true, limitBytes: 6 }), "hello\n");
assert.equal(await core.readNamespacedPodLog({ name: "js", namespace }), "hello\n");

const followed = new PassThrough();
await new Log(config).log(namespace, "js", "main", followed, { follow: false });
let text = "";
for await (const part of followed) text += part;
assert.equal(text, "hello\n");

const output = new PassThrough();
const said = [];
output.on("data", (part) => said.push(part));
const status = await new Promise((resolve, reject) => {
  new Exec(config).exec(namespace, "js", "main", ["sh", "-c", "echo hi; exit 3"], output, null, null, false, resolve)
    .catch(reject);
});
assert.equal(Buffer.concat(said).toString(), "hi\n");
assert.equal(status.details.causes[0].message, "3");

const [type, watched, request] = await new Promise((resolve, reject) => {
  const request = new Watch(config).watch(pods, mine, (type, pod) => resolve([type, pod, request]), (error) => error && reject(error));
});
(await request).abort();
assert.deepEqual([type, watched.metadata.name], ["ADDED", "js"]);

const list = await core.listNamespacedPod({ namespace, labelSelector: "app=js" });
assert.deepEqual(list.items.map((pod) => pod.metadata.name), ["js"]);
await core.deleteNamespacedPod({ name: "js", namespace });
for (;;) {
  try {
    await core.readNamespacedPod({ name: "js", namespace });
  } catch (error) {
    assert.equal(error.code, 404);
    break;
  }
}
await core.deleteNamespacedConfigMap({ name: "js", namespace });
console.log("done");
process.exit(0);
