"""Target, gateway and initiator in a guest: what World of tests/system/harness.py is outside of one."""
import json
import os

from guest import Failure, expect, tail

RUNTIME = "export SLUICE_RUNTIME_DIR=/run/sluice; mkdir -p /run/sluice; "


class Trio:
    """with Trio(guest, "tcp", "127.0.0.1:0") as trio: …  `device` as -d takes it; at its end every server must stop in order.
    `key`: the cluster's key, which addresses beyond the loopback one ask for."""

    def __init__(self, guest, device, listen, key=None):
        self.guest, self.device, self.listen = guest, device, listen
        self.servers, self.key = [], []
        if key is not None:
            self.key = ["--cluster-key-file", self.key_file("key", key)]

    def key_file(self, name, key):
        self.guest.run(f"umask 077; mkdir -p /run/sluice; echo {key} >/run/sluice/{name}", name="key")
        return f"/run/sluice/{name}"

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        for server in reversed(self.servers):
            if self.guest.ended:
                return
            if kind is None:
                server.stop()
            elif server.running():
                server.kill()

    def serve(self, name, *command, ready):
        server = self.guest.start(name, RUNTIME + "exec " + " ".join(str(part) for part in command))
        self.servers.append(server)
        server.wait_for(ready)
        return server

    def target(self, storage, *more, listen=None):
        server = self.serve("target", "sluice-target", "-d", self.device, "--storage", storage, "--listen",
                            listen or self.listen, *self.key, *more, ready="ready: ")
        server.address = server.wait_for(r"ready: .* at (\S+)").group(1)
        return server

    def gateway(self, targets, *more):
        servers = [part for target in targets for part in ("--storage-server", target.address)]
        return self.serve("gateway", "sluice-gateway", "-d", self.device, *servers, *self.key, *more,
                          ready="ready: command channel")

    def kill(self, server):
        """kill -9."""
        server.kill()
        self.servers.remove(server)

    def start(self, *arguments):
        """An initiator that runs on."""
        return self.guest.start("initiator", RUNTIME + "exec " + " ".join(
            ["sluice-initiator", "-d", self.device, *(str(argument) for argument in arguments)]))

    def finish(self, process, status=0, limit_s=60):
        process.wait(limit_s)
        expect(process.status == status, f"{process.name} ended with {process.status}, not {status}:\n{tail(process.text())}")
        return process.text()

    def run(self, *arguments, status=0, limit_s=60):
        """Runs an initiator to its end; with --json answers the object, else its output."""
        text = self.finish(self.start(*arguments), status, limit_s)
        if "--json" not in arguments:
            return text
        try:
            return json.loads(text[text.index("{"):])
        except ValueError:
            raise Failure(f"no JSON:\n{tail(text)}")

    def validity(self, size, depth, *more, limit_s=60):
        """Writes, reads back and compares."""
        text = self.run("--execution-strategy", "read_write_data_validity_test", "--io-size", size, "--transaction-count",
                        depth, *more, limit_s=limit_s)
        expect("data is valid" in text, text)


def add_programs(image, programs):
    """Paths of programs, as Meson gives them."""
    return image.program(*[os.path.abspath(program) for program in programs])
