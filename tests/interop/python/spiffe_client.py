"""py-spiffe's client, method by method."""

import sys
import unittest
from datetime import datetime, timezone

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from spiffe import JwtSource, JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient, X509Source
from spiffe.errors import PySpiffeError

SOCKET, ID = sys.argv.pop(1), sys.argv.pop(1)
DOMAIN = TrustDomain("example.org")


class WorkloadApi(unittest.TestCase):
    def setUp(self):
        self.client = WorkloadApiClient(SOCKET)
        self.addCleanup(self.client.close)

    def check_svid(self, svid):
        self.assertEqual(str(svid.spiffe_id), ID)
        self.assertGreater(svid.leaf.not_valid_after_utc, datetime.now(timezone.utc))
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.assertEqual(svid.private_key.public_key().public_bytes(*form), svid.leaf.public_key().public_bytes(*form))

    def test_an_x509_svid_and_its_key(self):
        self.check_svid(self.client.fetch_x509_svid())
        [svid] = self.client.fetch_x509_svids()
        self.check_svid(svid)

    def test_the_svid_is_signed_by_its_bundle(self):
        context = self.client.fetch_x509_context()
        self.check_svid(context.default_svid)
        bundle = context.x509_bundle_set.get_bundle_for_trust_domain(DOMAIN)
        chain = context.default_svid.cert_chain
        signer = chain[1] if len(chain) > 1 else None
        if signer is None:
            [signer] = [root for root in bundle.x509_authorities if root.subject == chain[0].issuer]
        chain[0].verify_directly_issued_by(signer)

    def test_x509_bundles(self):
        bundle = self.client.fetch_x509_bundles().get_bundle_for_trust_domain(DOMAIN)
        self.assertEqual(len(bundle.x509_authorities), 1)

    def test_a_jwt_svid_that_verifies_offline_and_at_the_authority(self):
        svid = self.client.fetch_jwt_svid({"orders", "payments"})
        self.assertEqual(str(svid.spiffe_id), ID)
        self.assertEqual(set(svid.audience), {"orders", "payments"})
        bundle = self.client.fetch_jwt_bundles().get_bundle_for_trust_domain(DOMAIN)
        offline = JwtSvid.parse_and_validate(svid.token, bundle, {"orders"})
        self.assertEqual(str(offline.spiffe_id), ID)
        self.assertEqual(str(self.client.validate_jwt_svid(svid.token, "payments").spiffe_id), ID)

    def test_a_jwt_svid_for_another_audience_is_refused(self):
        svid = self.client.fetch_jwt_svid({"orders"})
        with self.assertRaises(PySpiffeError):
            self.client.validate_jwt_svid(svid.token, "payments")

    def test_a_changed_jwt_svid_is_refused(self):
        head, claims, signature = self.client.fetch_jwt_svid({"orders"}).token.split(".")
        changed = f"{head}.{claims}.{signature[:-8]}{'A' * 8}"
        with self.assertRaises(PySpiffeError):
            self.client.validate_jwt_svid(changed, "orders")

    def test_a_jwt_svid_of_a_named_subject(self):
        self.assertEqual(str(self.client.fetch_jwt_svid({"orders"}, subject=SpiffeId(ID)).spiffe_id), ID)
        with self.assertRaises(PySpiffeError):
            self.client.fetch_jwt_svid({"orders"}, subject=SpiffeId("spiffe://example.org/ns/shop/sa/other"))

    def test_sources_that_keep_themselves_current(self):
        with X509Source(socket_path=SOCKET) as source:
            self.check_svid(source.svid)
            self.assertIsNotNone(source.get_bundle_for_trust_domain(DOMAIN))
        with JwtSource(socket_path=SOCKET) as source:
            self.assertEqual(str(source.fetch_svid({"orders"}).spiffe_id), ID)
            self.assertIsNotNone(source.get_bundle_for_trust_domain(DOMAIN))


if __name__ == "__main__":
    unittest.main()
