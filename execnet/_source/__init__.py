"""What is sent to the other side: functions, the text of `execnet.gateway_base`, the files of a tree."""
