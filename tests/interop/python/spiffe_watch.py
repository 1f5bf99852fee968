"""Prints a line for every state that the Workload API tells py-spiffe about."""

import json
import sys
import threading

from spiffe import TrustDomain, WorkloadApiClient


def show(context):
    svid = context.default_svid
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain("example.org"))
    signer = svid.cert_chain[-1].issuer.rfc4514_string() + svid.cert_chain[-1].signature.hex()
    key_id = next((e.value.key_identifier.hex() for e in svid.leaf.extensions if e.oid.dotted_string == "2.5.29.35"), signer)
    line = {"id": str(svid.spiffe_id), "serial": str(svid.leaf.serial_number), "roots": len(bundle.x509_authorities), "signer": key_id}
    print(json.dumps(line), flush=True)


def complain(error):
    print(error, file=sys.stderr, flush=True)


client = WorkloadApiClient(sys.argv[1])
handler = client.stream_x509_contexts(show, complain)
threading.Event().wait()
