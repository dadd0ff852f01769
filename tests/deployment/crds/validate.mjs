// Reads a JSON list of Kubernetes objects; prints what is wrong with each and ends with status 1 if anything is.
import { readFileSync } from "node:fs";

const packages = {
  "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
  "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
};
let wrong = 0;
for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  const models = await import(`${packages[object.apiVersion]}/${object.kind}`);
  try {
    new models[object.kind](object).validate();
  } catch (error) {
    wrong = 1;
    console.log(`${object.kind}/${object.metadata.name}: ${error.message}`);
  }
}
process.exit(wrong);
