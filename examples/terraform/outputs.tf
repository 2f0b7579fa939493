output "instances" {
  description = "The instance of each node by NodeId: id, private_ip, zone."
  value = {
    for node_id, instance in aws_instance.node : node_id => {
      id         = instance.id
      private_ip = instance.private_ip
      zone       = instance.availability_zone
    }
  }
}

output "volumes" {
  description = "The ids of the volumes, by node/set/number."
  value       = { for key, volume in aws_ebs_volume.member : key => volume.id }
}

output "role_name" {
  description = "The role of the instances, to attach more policies; null with a profile of yours."
  value       = one(aws_iam_role.node[*].name)
}
