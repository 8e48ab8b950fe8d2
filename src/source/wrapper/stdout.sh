# A command whose standard output is the backup. Comes after wrapper.sh.

ubo_begun=1
ubo_watched
ubo_before
ubo_do ubo_command
ubo_end command "$ubo_v"
