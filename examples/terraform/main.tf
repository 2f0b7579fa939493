# Nodes whose instances may be replaced at any time, and whose volumes stay.
#
# Replace a node:  terraform apply -replace='module.kafka.aws_instance.node["1"]'

locals {
  # One entry a volume, by "node/set/number". The key stays when others come and go.
  members = merge(flatten([
    for node_id, node in var.nodes : [
      for name, set in var.sets : {
        for number in range(set.members) :
        "${node_id}/${name}/${number}" => { node_id = node_id, set = name }
      }
    ]
  ])...)

  node_tags = {
    for node_id, node in var.nodes : node_id => {
      "${var.tag_namespace}:Prefix" = var.prefix
      "${var.tag_namespace}:NodeId" = node_id
    }
  }

  # What is null gets no tag.
  set_tags = {
    for name, set in var.sets : name => {
      for tag, value in {
        VolumeName   = name
        Members      = tostring(set.members)
        RaidLevel    = set.members > 1 ? set.raid_level : null
        FsType       = set.fs_type
        MountPath    = set.mount_path
        MountOptions = set.mount_options
        MkfsOptions  = set.mkfs_options
        Owner        = set.owner
        Group        = set.group
        Mode         = set.mode
        Label        = set.label
      } : "${var.tag_namespace}:${tag}" => value if value != null
    }
  }

  kms_key_arns = distinct([
    for set in values(var.sets) : set.kms_key_arn if set.kms_key_arn != null
  ])

  namespace = var.tag_namespace == "KRKN-IN" ? {} : { tag_namespace = var.tag_namespace }
}

data "aws_subnet" "node" {
  for_each = var.nodes
  id       = each.value.subnet_id
}

# ---------------------------------------------------------------- volumes

resource "aws_ebs_volume" "member" {
  for_each          = local.members
  availability_zone = data.aws_subnet.node[each.value.node_id].availability_zone
  size              = var.sets[each.value.set].size
  type              = var.sets[each.value.set].type
  iops              = var.sets[each.value.set].iops
  throughput        = var.sets[each.value.set].throughput
  encrypted         = var.sets[each.value.set].encrypted
  kms_key_id        = var.sets[each.value.set].kms_key_arn

  tags = merge(
    var.tags,
    var.sets[each.value.set].tags,
    { Name = "${var.prefix}-${each.key}" },
    local.node_tags[each.value.node_id],
    local.set_tags[each.value.set],
  )

  # To take a node away: first "terraform state rm" its volumes.
  lifecycle {
    prevent_destroy = true
  }
}

# ------------------------------------------------------------------- role

data "aws_partition" "current" {}

data "aws_service_principal" "ec2" {
  service_name = "ec2"
}

resource "aws_iam_role" "node" {
  count                = var.iam_instance_profile == null ? 1 : 0
  name_prefix          = "${substr(var.prefix, 0, 30)}-node-"
  permissions_boundary = var.permissions_boundary
  tags                 = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = data.aws_service_principal.ec2.name }
    }]
  })
}

resource "aws_iam_role_policy" "volumes" {
  count       = length(aws_iam_role.node)
  name_prefix = "volumes-"
  role        = aws_iam_role.node[0].id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "Look"
        Effect = "Allow"
        Action = [
          "ec2:DescribeInstanceTypes",
          "ec2:DescribeInstances",
          "ec2:DescribeTags",
          "ec2:DescribeVolumes",
        ]
        Resource = "*"
      },
      {
        Sid    = "AttachTheVolumesOfThisService"
        Effect = "Allow"
        Action = [
          "ec2:AttachVolume",
          "ec2:DetachVolume",
        ]
        Resource = [
          "arn:${data.aws_partition.current.partition}:ec2:*:*:instance/*",
          "arn:${data.aws_partition.current.partition}:ec2:*:*:volume/*",
        ]
        Condition = {
          StringEquals = { "aws:ResourceTag/${var.tag_namespace}:Prefix" = var.prefix }
        }
      },
    ]
  })
}

resource "aws_iam_role_policy" "keys" {
  count       = length(local.kms_key_arns) > 0 ? length(aws_iam_role.node) : 0
  name_prefix = "keys-"
  role        = aws_iam_role.node[0].id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "UseTheKeyOfTheVolumes"
        Effect = "Allow"
        Action = [
          "kms:Decrypt",
          "kms:DescribeKey",
          "kms:GenerateDataKeyWithoutPlaintext",
          "kms:ReEncrypt*",
        ]
        Resource = local.kms_key_arns
      },
      {
        Sid       = "LetEbsUseTheKey"
        Effect    = "Allow"
        Action    = "kms:CreateGrant"
        Resource  = local.kms_key_arns
        Condition = { Bool = { "kms:GrantIsForAWSResource" = "true" } }
      },
    ]
  })
}

resource "aws_iam_instance_profile" "node" {
  count       = length(aws_iam_role.node)
  name_prefix = "${substr(var.prefix, 0, 30)}-node-"
  role        = aws_iam_role.node[0].name
  tags        = var.tags
}

# -------------------------------------------------------------- instances

data "cloudinit_config" "node" {
  gzip          = false
  base64_encode = true

  part {
    filename     = "kraken.yaml"
    content_type = "text/cloud-config"
    content      = "#cloud-config\n${yamlencode({ kraken = merge({ enabled = true }, local.namespace, var.kraken) })}"
  }

  dynamic "part" {
    for_each = var.user_data

    content {
      filename     = part.value.filename
      content_type = part.value.content_type
      content      = part.value.content
      merge_type   = "list(append)+dict(no_replace,recurse_list)+str()"
    }
  }
}

resource "aws_instance" "node" {
  for_each                    = var.nodes
  ami                         = var.image_id
  instance_type               = coalesce(each.value.instance_type, var.instance_type)
  subnet_id                   = each.value.subnet_id
  private_ip                  = each.value.private_ip
  vpc_security_group_ids      = var.security_group_ids
  key_name                    = var.key_name
  iam_instance_profile        = var.iam_instance_profile == null ? aws_iam_instance_profile.node[0].name : var.iam_instance_profile
  user_data_base64            = data.cloudinit_config.node.rendered
  user_data_replace_on_change = true

  metadata_options {
    http_endpoint          = "enabled"
    http_tokens            = "required"
    instance_metadata_tags = "enabled"
  }

  # Without the tags of the node: it would count as one of its volumes.
  root_block_device {
    volume_size = var.root_volume.size
    volume_type = var.root_volume.type
    encrypted   = true
    kms_key_id  = var.root_volume.kms_key_arn
    tags        = merge(var.tags, { Name = "${var.prefix}-${each.key}-root" })
  }

  tags = merge(
    var.tags,
    each.value.tags,
    { Name = "${var.prefix}-${each.key}" },
    local.node_tags[each.key],
    { "${var.tag_namespace}:Volumes" = join(",", sort(keys(var.sets))) },
  )

  # The role and the volumes are there before the instance asks for them.
  depends_on = [
    aws_ebs_volume.member,
    aws_iam_role_policy.volumes,
    aws_iam_role_policy.keys,
  ]
}
