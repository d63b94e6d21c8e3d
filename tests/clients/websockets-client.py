"""Python's `websockets` as a client.

    BATON_URL=http://127.0.0.1:8000 python tests/clients/websockets-client.py

Prints a line per check, as TAP does, and exits 1 if one failed.
"""

import asyncio
import json
import os
import sys
import traceback

import msgpack
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

URL = os.environ["BATON_URL"].replace("http", "ws", 1)
DEADLINE = 30
failed = 0


async def every_size_comes_back():
    async with connect(URL + "/echo", max_size=None) as socket:
        for size in (0, 1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20):
            message = os.urandom(size)
            # All of it is sent before any of it is read.
            await socket.send(message)
            assert await socket.recv() == message, size
        await socket.send("häß 你好 🎉")
        assert await socket.recv() == "häß 你好 🎉"


async def fragments_come_back_whole():
    async with connect(URL + "/echo") as socket:
        await socket.send(part for part in ["one ", "two ", "", "three"])
        assert await socket.recv() == "one two three"


async def a_ping_is_answered():
    async with connect(URL + "/echo") as socket:
        await (await socket.ping(b"are you there?"))


async def too_large_is_closed_1009():
    # Not `async with`: to close what is closed already is too much for it here.
    socket = await connect(URL + "/echo", max_size=None)
    try:
        await socket.send(bytes((16 << 20) + 1))
        await socket.recv()
    except ConnectionClosed as closed:
        assert closed.rcvd is not None and closed.rcvd.code == 1009, closed
    else:
        raise AssertionError("it was not closed")


async def rooms_cross_workers():
    async with connect(URL + "/rooms") as one, connect(URL + "/rooms") as two:
        hello = [json.loads(await socket.recv())["hello"] for socket in (one, two)]
        if os.environ.get("BATON_WORKERS") != "1":
            assert hello[0]["worker"] != hello[1]["worker"], hello
        for socket in (one, two):
            await socket.send('{"id":"j","join":"py"}')
            assert "ok" in json.loads(await socket.recv())
        await one.send('{"id":"s","send":"py","data":{"text":"häß 你好 🎉","n":12345678901234567890}}')
        reply = json.loads(await one.recv())
        assert reply["id"] == "s", reply
        own, other = json.loads(await one.recv()), json.loads(await two.recv())
        assert own == other, (own, other)
        assert other["pos"] == reply["ok"]["pos"]
        assert other["from"] == hello[0]["cid"]
        assert other["data"] == {"text": "häß 你好 🎉", "n": 12345678901234567890}, other


async def messagepack_and_json_hear_the_same():
    rooms = URL + "/rooms"
    async with (
        connect(rooms, subprotocols=["rooms.v1.msgpack"]) as packs,
        connect(rooms, subprotocols=["rooms.v1.json"]) as speaks,
    ):
        assert packs.subprotocol == "rooms.v1.msgpack", packs.subprotocol

        async def say(message):
            await packs.send(msgpack.packb(message))

        async def hear():
            return msgpack.unpackb(await packs.recv())

        assert (await hear())["hello"]["max"]["message"] == 65536
        await speaks.recv()
        await say({"id": "j", "join": "packed"})
        assert (await hear())["id"] == "j"
        await speaks.send('{"id":1,"join":"packed"}')
        await speaks.recv()
        for data, as_json in (
            ({"text": "häß 你好 🎉\n", "list": [1, -1, 0.5, None, True]}, None),
            ([0, 2**53 + 1, 2**64 - 1, -(2**63), 1.5e300, 5e-324], None),
            ({"blob": b"\0\xff\x7f"}, {"blob": {"$bin": "AP9/"}}),
            (b"", {"$bin": ""}),
        ):
            as_json = data if as_json is None else as_json
            await say({"send": "packed", "data": data})
            own, other = await hear(), json.loads(await speaks.recv())
            assert own["data"] == data, own
            assert other["data"] == as_json, other
            assert own | {"data": as_json} == other, (own, other)
            # And back.
            await speaks.send(json.dumps({"send": "packed", "data": as_json}))
            back, own = await hear(), json.loads(await speaks.recv())
            assert (back["data"], own["data"]) == (data, as_json), (back, own)
            assert [type(value) for value in data] == [type(value) for value in back["data"]]
        await say({"id": 2**53 - 1, "send": "packed", "data": msgpack.Timestamp(0)})
        error = await hear()
        assert (error["id"], error["error"]["code"]) == (2**53 - 1, "bad_request"), error
        await packs.send("{}")
        try:
            await packs.recv()
        except ConnectionClosed as closed:
            assert closed.rcvd is not None and closed.rcvd.code == 1003, closed
        else:
            raise AssertionError("text was taken for MessagePack")


async def messages_are_compressed_both_ways():
    offers = [
        ClientPerMessageDeflateFactory(),
        ClientPerMessageDeflateFactory(server_max_window_bits=9, client_max_window_bits=9),
        ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True),
    ]
    for offer in offers:
        async with connect(URL + "/echo", extensions=[offer], max_size=None) as socket:
            (extension,) = socket.protocol.extensions
            assert extension.name == "permessage-deflate", extension
            assert extension.remote_no_context_takeover and extension.local_no_context_takeover
            for size in (0, 1, 1000, 70_000, 1 << 20):
                for message in (("häß 你好 🎉 " * size)[:size], os.urandom(size)):
                    await socket.send(message)
                    assert await socket.recv() == message, size
        async with connect(URL + "/rooms", extensions=[offer]) as socket:
            await socket.recv()
            await socket.send('{"id":1,"join":"py-deflate"}')
            await socket.recv()
            for size in (10, 1000, 50_000):
                data = ("häß 你好 🎉 " * size)[: size // 2]
                await socket.send(json.dumps({"send": "py-deflate", "data": data}, ensure_ascii=False))
                assert json.loads(await socket.recv())["data"] == data, size


async def an_unknown_path_is_refused():
    try:
        async with connect(URL + "/nowhere"):
            raise AssertionError("it was taken")
    except InvalidStatus as refused:
        assert refused.response.status_code == 404, refused


async def main():
    global failed
    checks = [
        every_size_comes_back,
        fragments_come_back_whole,
        a_ping_is_answered,
        too_large_is_closed_1009,
        rooms_cross_workers,
        messagepack_and_json_hear_the_same,
        messages_are_compressed_both_ways,
        an_unknown_path_is_refused,
    ]
    for number, check in enumerate(checks, 1):
        name = check.__name__.replace("_", " ")
        try:
            await asyncio.wait_for(check(), DEADLINE)
            print(f"ok {number} - {name}", flush=True)
        except Exception:
            failed += 1
            print(f"not ok {number} - {name}", flush=True)
            print("".join(f"  # {line}\n" for line in traceback.format_exc().splitlines()), end="", flush=True)
    print(f"1..{len(checks)}")


asyncio.run(main())
sys.exit(1 if failed else 0)
