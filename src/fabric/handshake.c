/*
 * The handshake: docs/wire.md, "Handshake". Both sides prove that they hold the cluster's key over
 * both nonces and everything that was agreed on; the key itself never travels.
 *
 *   connecting side                         listening side
 *   HELLO {versions, limits, nonce}  ──►
 *                                    ◄──    CHALLENGE {version, limits, nonce, proof of the
 * listener} PROOF {proof of the connecter}   ──► ◄──    WELCOME, or REJECT {status}
 *
 * proof = HMAC-SHA256(cluster key, label | HELLO 32…95 | CHALLENGE 32…95), compared in constant
 * time.
 */
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/private.h"

static const char label_listener[] = "sluice fabric 1 listener";
static const char label_connecter[] = "sluice fabric 1 connecter";

static void make_proof(const struct sl_connection *connection, const char *label, uint8_t *proof)
{
    uint8_t text[64 + 2 * SL_TRANSCRIPT_PART_BYTES];
    size_t length = strlen(label);
    unsigned proof_bytes = SL_PROOF_BYTES;
    memcpy(text, label, length); /* header: transcript */
    memcpy(text + length, &connection->hello.magic,
           SL_TRANSCRIPT_PART_BYTES); /* header: transcript */
    length += SL_TRANSCRIPT_PART_BYTES;
    memcpy(text + length, &connection->challenge.magic,
           SL_TRANSCRIPT_PART_BYTES); /* header: transcript */
    length += SL_TRANSCRIPT_PART_BYTES;
    const struct sl_fabric_config *config = &connection->fabric->config;
    SL_ASSERT(HMAC(EVP_sha256(), config->cluster_key, sizeof(config->cluster_key), text, length,
                   proof, &proof_bytes) != NULL);
}

void sl_handshake_warm_up(void)
{
    uint8_t proof[SL_PROOF_BYTES];
    unsigned proof_bytes = SL_PROOF_BYTES;
    SL_ASSERT(HMAC(EVP_sha256(), proof, 0, (const uint8_t *)label_listener, 0, proof,
                   &proof_bytes) != NULL);
}

static bool proof_is_right(const struct sl_connection *connection, const char *label,
                           const uint8_t *proof)
{
    uint8_t expected[SL_PROOF_BYTES];
    make_proof(connection, label, expected);
    return CRYPTO_memcmp(expected, proof, sizeof(expected)) == 0;
}

static void describe_self(const struct sl_connection *connection, struct sl_capsule_hello *hello)
{
    const struct sl_fabric_config *config = &connection->fabric->config;
    memset(hello, 0, sizeof(*hello));
    hello->magic = SL_FABRIC_MAGIC;
    hello->version_min = SL_FABRIC_VERSION_MIN;
    hello->version_max = SL_FABRIC_VERSION_MAX;
    hello->role = config->role;
    hello->credits = config->credits;
    hello->in_capsule_bytes = config->in_capsule_bytes;
    hello->transfer_bytes_max = SL_TRANSFER_BYTES_MAX;
    hello->instance_id = config->instance_id;
    sl_reactor_random(config->reactor, hello->nonce, sizeof(hello->nonce));
}

/* The peer's limits are only as good as these checks. */
static bool take_peer(struct sl_connection *connection, const struct sl_capsule_hello *hello)
{
    if (hello->header.length_bytes != sizeof(*hello) || hello->magic != SL_FABRIC_MAGIC ||
        hello->credits == 0 || hello->credits > SL_CREDITS_MAX ||
        hello->in_capsule_bytes > SL_IN_CAPSULE_BYTES_MAX ||
        hello->in_capsule_bytes % SL_BLOCK_BYTES != 0 || hello->transfer_bytes_max < SL_BLOCK_BYTES)
        return false;
    connection->peer.role = hello->role;
    connection->peer.instance_id = hello->instance_id;
    connection->peer.credits = hello->credits;
    connection->peer.in_capsule_bytes = hello->in_capsule_bytes;
    connection->peer.transfer_bytes_max = sl_min(hello->transfer_bytes_max, SL_TRANSFER_BYTES_MAX);
    return true;
}

static void reject(struct sl_connection *connection, int reason, const char *what)
{
    struct tx *tx = sl_tx_get(connection);
    sl_log_warn("fabric", "connection with %s refused: %s", connection->peer.address, what);
    if (tx == NULL) {
        sl_connection_shutdown(connection, reason);
        return;
    }
    memset(&tx->capsule->header, 0, sizeof(tx->capsule->header));
    tx->capsule->header.type = SL_CAPSULE_REJECT;
    tx->capsule->header.length_bytes = sizeof(tx->capsule->header);
    tx->capsule->header.status = sl_status_from_errno(reason);
    tx->close_after = true;
    tx->close_reason = reason;
    sl_tx_send(tx, NULL, 0);
}

/* ---- connecting side ---- */

void sl_handshake_begin(struct sl_connection *connection)
{
    describe_self(connection, &connection->hello);
    if (!sl_control_send(connection, SL_CAPSULE_HELLO, &connection->hello,
                         sizeof(connection->hello), NULL))
        sl_connection_shutdown(connection, -ENOMEM);
}

static bool challenge_came(struct sl_connection *connection,
                           const struct sl_capsule_hello *challenge)
{
    struct sl_capsule_proof proof = {0};
    if (connection->challenge.magic != 0 || !take_peer(connection, challenge))
        return false;
    if (challenge->version_min != challenge->version_max ||
        challenge->version_min < SL_FABRIC_VERSION_MIN ||
        challenge->version_min > SL_FABRIC_VERSION_MAX) {
        reject(connection, -SL_E_VERSION, "it chose a version that we do not speak");
        return true;
    }
    connection->challenge = *challenge;
    if (!proof_is_right(connection, label_listener, challenge->proof)) {
        reject(connection, -SL_E_CLUSTER_KEY,
               "it does not hold our cluster's key (--cluster-key-file)");
        return true;
    }
    /* It may send as soon as it has our proof. */
    sl_receives_post_all(connection);
    make_proof(connection, label_connecter, proof.proof);
    if (!sl_control_send(connection, SL_CAPSULE_PROOF, &proof, sizeof(proof), NULL))
        sl_connection_shutdown(connection, -ENOMEM);
    return true;
}

static bool rejected(struct sl_connection *connection, const struct sl_capsule_header *header)
{
    int reason = sl_status_to_errno(header->status);
    if (reason == 0)
        return false;
    sl_connection_fail(connection, reason,
                       reason == -SL_E_CLUSTER_KEY
                           ? "it says that we do not hold its cluster's key (--cluster-key-file)"
                           : "it refused the connection");
    return true;
}

/* ---- listening side ---- */

static bool hello_came(struct sl_connection *connection, const struct sl_capsule_hello *hello)
{
    if (connection->hello.magic != 0 || !take_peer(connection, hello))
        return false;
    uint16_t version = sl_min(hello->version_max, (uint16_t)SL_FABRIC_VERSION_MAX);
    connection->hello = *hello;
    if (version < hello->version_min || version < SL_FABRIC_VERSION_MIN) {
        reject(connection, -SL_E_VERSION, "no common version");
        return true;
    }
    describe_self(connection, &connection->challenge);
    connection->challenge.version_min = version;
    connection->challenge.version_max = version;
    make_proof(connection, label_listener, connection->challenge.proof);
    if (!sl_control_send(connection, SL_CAPSULE_CHALLENGE, &connection->challenge,
                         sizeof(connection->challenge), NULL))
        sl_connection_shutdown(connection, -ENOMEM);
    return true;
}

static bool proof_came(struct sl_connection *connection, const struct sl_capsule_proof *proof)
{
    if (connection->challenge.magic == 0 || proof->header.length_bytes != sizeof(*proof))
        return false;
    if (!proof_is_right(connection, label_connecter, proof->proof)) {
        reject(connection, -SL_E_CLUSTER_KEY,
               "it does not hold our cluster's key (--cluster-key-file)");
        return true;
    }
    sl_receives_post_all(connection);
    if (connection->state != CONNECTION_HANDSHAKE)
        return true;
    if (!sl_control_send(connection, SL_CAPSULE_WELCOME, NULL, sizeof(struct sl_capsule_header),
                         NULL)) {
        sl_connection_shutdown(connection, -ENOMEM);
        return true;
    }
    sl_connection_opened(connection);
    return true;
}

bool sl_handshake_received(struct sl_connection *connection, const union sl_capsule *capsule)
{
    const void *bytes = capsule->bytes;
    /* Either end may refuse: so both know, and log, why. */
    if (capsule->header.type == SL_CAPSULE_REJECT)
        return rejected(connection, &capsule->header);
    if (connection->incoming) {
        switch (capsule->header.type) {
        case SL_CAPSULE_HELLO:
            return hello_came(connection, bytes);
        case SL_CAPSULE_PROOF:
            return proof_came(connection, bytes);
        default:
            return false;
        }
    }
    switch (capsule->header.type) {
    case SL_CAPSULE_CHALLENGE:
        return challenge_came(connection, bytes);
    case SL_CAPSULE_WELCOME:
        if (connection->challenge.magic == 0)
            return false;
        sl_connection_opened(connection);
        return true;
    default:
        return false;
    }
}
