"""Broker configuration: what fedbus needs of the MQTT broker it stands on.

`mosquitto.conf` and `README.md` are for people; `mosquitto` renders the files of one broker,
`files` writes them, `running` starts a broker on them.
"""
