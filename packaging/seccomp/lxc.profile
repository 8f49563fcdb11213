2
denylist
reject_force_umount
[all]
kexec_load errno 1
open_by_handle_at errno 1
init_module errno 1
finit_module errno 1
delete_module errno 1
statfs notify
fstatfs notify
mount notify
fsopen notify
clone3 errno 38
