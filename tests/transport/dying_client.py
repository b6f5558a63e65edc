"""A client in a process of its own, to be killed: ``python dying_client.py PORT CLIENT_ID``.

Prints ``connected`` once its will is with the broker.
"""

import random
import sys

from transport import BrokerSettings, Will
from transport.loop import Loop
from transport.paho import PahoTransport

settings = BrokerSettings(
    port=int(sys.argv[1]), client_id=sys.argv[2], will=Will("state", b"offline")
)
transport = PahoTransport(settings, random=random.random)
loop = Loop()
loop.add(transport)
transport.connect()
announced = False
while True:
    loop.wait(1.0)
    if transport.connected and not announced:
        announced = True
        sys.stdout.write("connected\n")
        sys.stdout.flush()
