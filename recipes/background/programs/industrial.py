"""A plant and who asks it: `industrial.py serve OWN` and `industrial.py ask PLANT OWN`."""

# ruff: noqa: BLE001 - one protocol that fails leaves the others going
from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable

ROLE, AT = sys.argv[1], sys.argv[2]


def modbus_serve() -> None:
    from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext
    from pymodbus.server import StartTcpServer

    block = ModbusSequentialDataBlock(0, list(range(200)))
    StartTcpServer(ModbusServerContext(devices=ModbusDeviceContext(di=block, co=block, hr=block, ir=block), single=True), address=(AT, 502))


def modbus_ask() -> None:
    from pymodbus.client import ModbusTcpClient

    for turn in range(4):
        with ModbusTcpClient(AT, port=502) as client:
            for k in range(3 + turn):
                client.read_holding_registers(10 * k, count=8)
                client.read_coils(k, count=16)
                client.write_register(5, k)
                time.sleep(0.1)


def s7_serve() -> None:
    import snap7

    server = snap7.server.Server()
    server.start(tcp_port=102)
    time.sleep(600)


def s7_ask() -> None:
    import snap7

    for _ in range(3):
        client = snap7.client.Client()
        client.connect(AT, 0, 1)
        for _ in range(3):
            try:
                client.db_read(1, 0, 16)
            except Exception as error:  # an empty server refuses; the exchange is what counts
                print(error)
            time.sleep(0.1)
        client.disconnect()


def iec104_serve() -> None:
    import c104

    server = c104.Server(ip=AT, port=2404)
    station = server.add_station(common_address=47)
    point = station.add_point(io_address=11, type=c104.Type.M_ME_NC_1, report_ms=500)
    server.start()
    for k in range(1200):
        point.value = 20.0 + k % 7
        time.sleep(0.5)


def iec104_ask() -> None:
    import c104

    client = c104.Client()
    connection = client.add_connection(ip=AT, port=2404, init=c104.Init.ALL)
    connection.add_station(common_address=47).add_point(io_address=11, type=c104.Type.M_ME_NC_1)
    client.start()
    time.sleep(5)
    client.stop()


def opcua_serve() -> None:
    from asyncua import Server

    async def run() -> None:
        server = Server()
        await server.init()
        server.set_endpoint(f"opc.tcp://{AT}:4840/plant")
        space = await server.register_namespace("plant")
        item = await server.nodes.objects.add_object(space, "boiler")
        value = await item.add_variable(space, "temperature", 20.5)
        async with server:
            for k in range(1200):
                await value.write_value(20.0 + k % 9)
                await asyncio.sleep(0.5)

    asyncio.run(run())


def opcua_ask() -> None:
    from asyncua import Client

    async def run() -> None:
        for _ in range(2):
            async with Client(f"opc.tcp://{AT}:4840/plant") as client:
                for node in await client.nodes.objects.get_children():
                    await node.read_browse_name()

    asyncio.run(run())


def bacnet(own: str, ask: bool) -> None:
    from bacpypes3.app import Application
    from bacpypes3.argparse import SimpleArgumentParser

    async def run() -> None:
        words = ["--address", f"{own}/24", "--instance", "77" if ask else "42", "--name", "operator" if ask else "plant"]
        application = Application.from_args(SimpleArgumentParser().parse_args(words))
        if not ask:
            await asyncio.sleep(600)
        for _ in range(3):
            print(await application.who_is())
            for what in ("object-name", "model-name", "system-status", "object-list"):
                try:
                    print(await application.read_property(AT, "device,42", what))
                except Exception as error:  # a property it does not have is an answer too
                    print(error)
        application.close()

    asyncio.run(run())


def guarded(work: Callable[[], None]) -> None:
    """One protocol; where it fails the others go on."""
    try:
        work()
    except Exception as error:
        print(type(error).__name__, error, flush=True)


if ROLE == "serve":
    for serve in (modbus_serve, s7_serve, iec104_serve, opcua_serve):
        threading.Thread(target=guarded, args=(serve,), daemon=True).start()
    guarded(lambda: bacnet(AT, ask=False))
    time.sleep(600)
else:
    for ask in (modbus_ask, s7_ask, iec104_ask, opcua_ask, lambda: bacnet(sys.argv[3], ask=True)):
        guarded(ask)
