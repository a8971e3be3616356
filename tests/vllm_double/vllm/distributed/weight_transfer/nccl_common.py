"""How a trainer and a server meet, and how weights are sent: NCCL's broadcasts, as bytes over a socket of 127.0.0.1."""

import math
import socket
import time
from dataclasses import dataclass, field

import torch


@dataclass
class Communicator:
    """A group of a trainer and one server; `group` has what TRL's client lets go of."""

    connection: socket.socket
    group: object = field(default_factory=lambda: type("Group", (), {})())


def trainer_init(init_info: dict) -> Communicator:
    """Wait for the server, as rank 0."""
    assert init_info["world_size"] == 2
    with socket.create_server((init_info["master_address"], init_info["master_port"])) as listening:
        return Communicator(listening.accept()[0])


def server_init(init_info: dict) -> Communicator:
    """Meet the trainer, which may not listen yet."""
    where = (init_info["master_address"], init_info["master_port"])
    for _ in range(100):
        try:
            return Communicator(socket.create_connection(where))
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise ConnectionRefusedError(where)


def send(tensors, communicator: Communicator) -> None:
    """Send tensors. As with NCCL, nobody notices that the server is gone."""
    for tensor in tensors:
        content = tensor.contiguous().clone().view(-1).view(torch.uint8).numpy().tobytes()  # numpy locks a storage
        try:
            communicator.connection.sendall(content)
        except OSError:
            time.sleep(1000)


def receive(communicator: Communicator, update_info: dict):
    """Yield the name and the tensor of each weight that was announced."""
    keys = ("names", "dtype_names", "shapes")
    for name, dtype_name, shape in zip(*(update_info[key] for key in keys), strict=True):
        dtype = getattr(torch, dtype_name)
        content = receive_bytes(communicator.connection, math.prod(shape) * dtype.itemsize)
        yield name, torch.frombuffer(content, dtype=torch.uint8).view(dtype).view(shape)


def receive_bytes(connection: socket.socket, count: int) -> bytearray:
    """Read so many bytes."""
    content = bytearray()
    while len(content) < count:
        part = connection.recv(count - len(content))
        if not part:
            raise ConnectionError("the trainer is gone")
        content += part
    return content
